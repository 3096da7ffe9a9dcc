"Signing: who may write to the store can change everything in it but the signature, and a server that demands one is not deceived."
import json
import shutil
import stat

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sklearn.linear_model import LogisticRegression

from mlscale.artifacts import ModelVersion, load_bundle, save, write_pointer
from mlscale.history import signer
from mlscale.hot_swap import ReloadingModel, load_deployed, load_model_from_registry
from mlscale.serving import serving_process
from mlscale.signing import make_keys, sign, sign_bundle, verify, verify_bundle
from mlscale.storage import digest

X = np.arange(40.).reshape(20, 2)
Y = np.arange(20) > 9


def saved(shelf, version, flip=False, name="late", c=1.):
    return save(LogisticRegression(C=c).fit(X, Y ^ flip), shelf/str(version), example=X, lineage={"name": name, "version": version})


def point(shelf, version, at=None, key=None):
    named = ModelVersion("late", version, at or digest(shelf/str(version)/"card.json"))
    write_pointer(shelf, "production", named, sign=signer(key, "pointer"))
    return named


@pytest.fixture(scope="module")
def keys(tmp_path_factory): return make_keys(tmp_path_factory.mktemp("keys")/"ours")


@pytest.fixture
def shelf(tmp_path, keys):
    shelf = tmp_path/"bundles"/"late"
    bundle = saved(shelf, 1)
    sign_bundle(shelf/"1", keys[0], sha256=bundle.sha256)
    point(shelf, 1, key=keys[0])
    return shelf


def test_a_signed_bundle_is_served_and_signing_again_changes_nothing(shelf, keys):
    private, public = keys
    before = (shelf/"1"/"card.sig").read_bytes()
    assert sign_bundle(shelf/"1", private).read_bytes() == before
    assert verify_bundle(shelf/"1", public) == load_bundle(shelf/"1").sha256
    assert load_model_from_registry("late", 1, bundles=shelf.parent, trusted_key=public).version == 1


def forge(shelf):
    "Model, card, digests and pointer together: consistent, and another model."
    signature = (shelf/"1"/"card.sig").read_bytes()
    shutil.rmtree(shelf/"1")
    saved(shelf, 1, flip=True)
    (shelf/"1"/"card.sig").write_bytes(signature)
    return point(shelf, 1)


def test_all_changed_together_is_served_without_and_refused_with_a_key(shelf, keys, tmp_path):
    honest = load_bundle(shelf/"1").predict(X)
    forged = forge(shelf)
    assert np.allclose(load_deployed(shelf, forged).bundle.predict(X), 1 - honest, atol=.01)   # without a key the attack succeeds
    with pytest.raises(ValueError, match="not by the holder of public.pem"): load_deployed(shelf, forged, trusted_key=keys[1])
    other, _ = make_keys(tmp_path/"others")
    sign_bundle(shelf/"1", other)
    with pytest.raises(ValueError, match="not by the holder of public.pem"): load_deployed(shelf, forged, trusted_key=keys[1])
    (shelf/"1"/"card.sig").unlink()
    with pytest.raises(ValueError, match=r"1/card.sig is missing: the bundle is not signed"): load_deployed(shelf, forged, trusted_key=keys[1])


def test_a_server_that_demands_signatures_keeps_the_honest_model(shelf, keys):
    row = {"values": [[0., 1.]]}
    with serving_process(shelf.parent, trusted_key=keys[1]) as url:
        honest = httpx.post(f"{url}/predict", json=row).json()["prediction"]
        forge(shelf)
        httpx.post(f"{url}/reload")
        assert httpx.post(f"{url}/predict", json=row).json()["prediction"] == honest
    with serving_process(shelf.parent, trusted_key=keys[1]) as url: assert httpx.post(f"{url}/predict", json=row).status_code == 503
    with serving_process(shelf.parent) as url: assert httpx.post(f"{url}/predict", json=row).json()["prediction"] != honest   # without a key


def test_a_bundle_under_another_number_or_name_is_refused(shelf, keys):
    shutil.copytree(shelf/"1", shelf/"99")
    named = point(shelf, 99)
    for key in (None, keys[1]):
        with pytest.raises(ValueError, match="the pointer says late version 99, the card late version 1"): load_deployed(shelf, named, trusted_key=key)
    saved(shelf, 2, name="early")
    sign_bundle(shelf/"2", keys[0])
    with pytest.raises(ValueError, match="the card early version 2"): load_deployed(shelf, point(shelf, 2), trusted_key=keys[1])
    nameless = save(LogisticRegression().fit(X, Y), shelf/"3", example=X)
    sign_bundle(shelf/"3", keys[0])
    assert load_deployed(shelf, point(shelf, 3)).bundle.sha256 == nameless.sha256
    with pytest.raises(ValueError, match="the card None version None"): load_deployed(shelf, point(shelf, 3), trusted_key=keys[1])


def test_the_signature_and_the_pointer_speak_of_one_card(shelf, keys):
    bundle = saved(shelf, 2)
    sign_bundle(shelf/"2", keys[0])
    with pytest.raises(ValueError, match="what is signed is not what the pointer names"): load_deployed(shelf, ModelVersion("late", 2, load_bundle(shelf/"1").sha256), trusted_key=keys[1])
    assert load_deployed(shelf, ModelVersion("late", 2, bundle.sha256), trusted_key=keys[1]).version == 2


def test_what_is_signed_is_what_was_approved(shelf, keys):
    approved = load_bundle(shelf/"1").sha256
    forge(shelf)
    (shelf/"1"/"card.sig").unlink()
    with pytest.raises(ValueError, match="was changed"): sign_bundle(shelf/"1", keys[0], sha256=approved)
    (shelf/"1"/"model.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="was changed"): sign_bundle(shelf/"1", keys[0])
    assert not (shelf/"1"/"card.sig").exists()


def test_any_flipped_bit_of_a_signature_is_refused(keys):
    signature = sign(b"data", keys[0], purpose="test")
    verify(b"data", signature, keys[1], purpose="test")
    for i in range(0, 512, 7):
        altered = f"{int(signature, 16) ^ 1 << i:0128x}"
        with pytest.raises(ValueError, match="not by the holder"): verify(b"data", altered, keys[1], purpose="test")
    for other in ("", "x"*128, signature.upper(), signature + "00", signature[:-2]):
        if other == signature: continue
        with pytest.raises(ValueError, match="not by the holder"): verify(b"data", other, keys[1], purpose="test")


def test_data_and_purpose_cannot_be_exchanged(keys):
    signature = sign(b"data", keys[0], purpose="history")
    for data, purpose in ((b"data", "bundle"), (b"datA", "history"), (b"", "history"), (b"history\ndata", "x")):
        with pytest.raises(ValueError, match="not by the holder"): verify(data, signature, keys[1], purpose=purpose)
    for purpose in ("", "a\nb", "a\rb"):
        with pytest.raises(ValueError, match="purpose="): sign(b"data", keys[0], purpose=purpose)


def test_one_of_several_trusted_keys_is_enough(shelf, keys, tmp_path):
    new_private, new_public = make_keys(tmp_path/"new")
    both = tmp_path/"trusted.pem"
    both.write_bytes(keys[1].read_bytes() + b"\nthe new one:\n" + new_public.read_bytes())
    verify_bundle(shelf/"1", both)
    sign_bundle(shelf/"1", new_private)
    verify_bundle(shelf/"1", both)
    with pytest.raises(ValueError, match="not by the holder"): verify_bundle(shelf/"1", keys[1])


def test_keys_are_for_their_owner_and_never_replaced(tmp_path):
    private, public = make_keys(tmp_path/"k")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600 and b"PRIVATE" not in public.read_bytes()
    before = private.read_bytes()
    with pytest.raises(ValueError, match="choose a new folder"): make_keys(tmp_path/"k")
    private.unlink()
    with pytest.raises(ValueError, match="public.pem"): make_keys(tmp_path/"k")
    assert make_keys(tmp_path/"other")[0].read_bytes() != before


def test_a_key_that_is_none_is_an_error_that_does_not_show_it(shelf, keys, tmp_path):
    private, public = keys
    curve = ec.generate_private_key(ec.SECP256R1())
    (tmp_path/"curve.pem").write_bytes(curve.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (tmp_path/"noise.pem").write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    (tmp_path/"large.pem").write_bytes(bytes(10**6))
    for path in (public, tmp_path/"curve.pem", tmp_path/"noise.pem", tmp_path/"none.pem", tmp_path/"large.pem", "/dev/zero"):
        with pytest.raises(ValueError, match="private_key|large.pem|dev/zero") as e: sign_bundle(shelf/"1", path)
        assert "AAAA" not in str(e.value)
    for path in (private, tmp_path/"curve.pem", tmp_path/"noise.pem", tmp_path/"none.pem", tmp_path/"large.pem", "/dev/zero"):
        with pytest.raises(ValueError, match="public_key|large.pem|dev/zero"): verify_bundle(shelf/"1", path)
    live = ReloadingModel(shelf, trusted_key=tmp_path/"none.pem")
    assert live.reload() is None and "public_key" in live.error   # who demands signatures and cannot check serves nothing


def test_an_older_card_is_not_signed_by_dropping_the_signature(shelf, keys):
    "The downgrade: a card of format 1, unsigned as all were then."
    card = json.loads((shelf/"1"/"card.json").read_text())
    (shelf/"1"/"card.json").write_text(json.dumps({**card, "format": 1}))
    (shelf/"1"/"card.sig").unlink()
    named = point(shelf, 1)
    assert load_deployed(shelf, named).version == 1
    with pytest.raises(ValueError, match="not signed"): load_deployed(shelf, named, trusted_key=keys[1])
