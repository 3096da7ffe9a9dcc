"A bundle that somebody else wrote: each attack is one clear error, before its code runs, and costs neither memory nor time."
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import skops.io
from onnx import TensorProto, helper, numpy_helper
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, LabelEncoder

from mlscale.artifacts import load_bundle, onnx_scorer, read_card, read_skops, save
from mlscale.bundle import FORMAT, MAX_BYTES
from mlscale.storage import digest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 2)).astype(np.float32).astype(float)
Y = X[:, 0] + X[:, 1] > 0
MB = 2**20


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    "A bundle for each engine."
    folder = tmp_path_factory.mktemp("honest")
    save(LogisticRegression().fit(X, Y), folder/"onnx", example=X)
    save(LinearDiscriminantAnalysis().fit(X, Y), folder/"skops", example=X)
    assert read_card(folder/"onnx")["engine"] == "onnx" and read_card(folder/"skops")["engine"] == "skops"
    return folder


@pytest.fixture
def forged(honest, tmp_path):
    "A copy of a bundle whose card fits to what is put into it."
    def make(made_for="onnx", content=None, name="forged", **card):
        folder = tmp_path/name
        shutil.copytree(honest/made_for, folder)
        if content is not None: (folder/f"model.{made_for}").write_bytes(content)
        old = json.loads((folder/"card.json").read_text())
        files = {file: digest(folder/file) for file in old["files"]}
        (folder/"card.json").write_text(json.dumps({**old, "files": files, **card}))
        return folder
    return make


def graph(*nodes, k=2, initializers=(), width=2):
    shape = lambda name, n: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, n])
    made = helper.make_graph(list(nodes), "g", [shape("X", k)], [shape("Y", width)], list(initializers))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def greedy(n):
    ones = helper.make_node("ConstantOfShape", ["n"], ["ones"], value=helper.make_tensor("value", TensorProto.FLOAT, [1], [1]))
    total = helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0)
    return graph(ones, total, helper.make_node("Mul", ["X", "sum"], ["Y"]), initializers=[numpy_helper.from_array(np.array([n], np.int64), "n")])


def archive(*more, model=None):
    "A skops file with further parts."
    packed = io.BytesIO(skops.io.dumps(model if model is not None else LinearDiscriminantAnalysis().fit(X, Y)))
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as z:
        for name, size in more:
            with z.open(name, "w", force_zip64=True) as f:
                for _ in range(size//MB): f.write(bytes(MB))
    return packed.getvalue()


# --- what a card says

@pytest.mark.parametrize("value", [None, "", 0, "0"*63, "0"*65, "g"*64, "A"*64, ["0"*64], {}, True])
def test_a_digest_that_is_none_is_refused(forged, honest, value):
    swapped = forged(content=(honest/"onnx"/"model.onnx").read_bytes() + b" ", files={"model.onnx": value})
    with pytest.raises(ValueError, match=r"card.json is damaged \(files\)"): load_bundle(swapped)
    if value is not None:
        with pytest.raises(ValueError, match="64 hexadecimal digits"): load_bundle(honest/"onnx", sha256=value)


@pytest.mark.parametrize("card", [{"files": {}}, {"files": {"model.skops": "0"*64}}, {"files": {"../onnx/model.onnx": "0"*64}}, {"files": {"model.pkl": "0"*64}}, {"engine": "skops", "files": {}},
                                  {"engine": "pickle"}, {"engine": ["onnx"]}, {"types": None}, {"types": ["number"]}, {"reference": None}, {"reference": {}}, {"versions": None}, {"evaluation": 3},
                                  {"kind": {}}, {"output": []}, {"columns": [{}]}, {"allow_missing": [0, 1]}, {"lineage": []}])
def test_a_card_that_makes_no_sense_is_refused(forged, card):
    with pytest.raises(ValueError, match=r"card.json is damaged"): load_bundle(forged(**card))


@pytest.mark.parametrize("predictions", [[10**400]*4, [[[1]]], [{}]*4, ["x"]*4, [None]*4, [.5], [], [float("nan")]*4, [1e999]*4, [2.]*4])
def test_reference_rows_that_the_model_does_not_answer_are_refused(forged, honest, predictions):
    values = read_card(honest/"onnx")["reference"]["values"]
    with pytest.raises(ValueError, match="reference rows"): load_bundle(forged(reference={"values": values, "predictions": predictions}))


@pytest.mark.parametrize("values", [[[[]*2]*2], [10**400, 1], [["x", "y"]], [[None, None]], [[{}, {}]], [[1.]], [[1., 2., 3.]], {}, "rows"])
def test_reference_rows_that_are_none_are_refused(forged, values):
    with pytest.raises(ValueError, match="reference"): load_bundle(forged(reference={"values": values, "predictions": [.5]}))


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"3", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'{"format": 2}', b'{"format": 1}', b'{"format": ' + b"9"*5000 + b"}"])
def test_a_card_that_is_none_is_refused(honest, tmp_path, text):
    shutil.copytree(honest/"onnx", tmp_path/"b")
    (tmp_path/"b"/"card.json").write_bytes(text)
    for read in (load_bundle, read_card):
        with pytest.raises(ValueError, match="card.json"): read(tmp_path/"b")


@pytest.mark.parametrize("stated", [0, 3, True, 1.0, "2", None, [2], -1])
def test_a_format_that_is_not_known_is_refused(forged, stated):
    with pytest.raises(ValueError, match=f"not of a format from 1 to {FORMAT}"): load_bundle(forged(format=stated))


def test_an_older_card_waives_no_check(forged, honest):
    "Format 1 knows no types and no reference rows; digests, sizes and the list of types hold for it as well."
    def downgraded(name, **change):
        folder = forged(name=name, format=1)
        card = json.loads((folder/"card.json").read_text())
        for key in ("types", "reference", "evaluation", "versions"): card.pop(key)
        (folder/"card.json").write_text(json.dumps({**card, **change}))
        return folder
    assert load_bundle(downgraded("as it was")).predict(X).shape == (200,)
    for name, change in (("null", {"files": {"model.onnx": None}}), ("other", {"files": {"model.onnx": "0"*64}}), ("typed", {"types": "text"})):
        with pytest.raises(ValueError, match="damaged|was changed"): load_bundle(downgraded(name, **change))
    with pytest.raises(ValueError, match="was changed"): load_bundle(downgraded("approved"), sha256=digest(honest/"onnx"/"card.json"))


# --- what a model file holds

def test_numbers_in_another_file_are_refused(forged, tmp_path, monkeypatch):
    weights = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    content = weights.raw_data
    monkeypatch.chdir(tmp_path)
    for place in ("w.bin", "./w.bin", str(tmp_path/"w.bin"), "../" + tmp_path.name + "/w.bin"):
        (tmp_path/"w.bin").write_bytes(content)
        outside = TensorProto(dims=weights.dims, data_type=weights.data_type, name="w", data_location=TensorProto.EXTERNAL)
        outside.external_data.add(key="location", value=place)
        times = helper.make_node("MatMul", ["X", "w"], ["Y"])
        inside = helper.make_node("Constant", [], ["w"], value=outside)
        for model in (graph(times, initializers=[outside]), graph(inside, times)):
            with pytest.raises(ValueError, match="not an ONNX model that can be used"): onnx_scorer(model)
    assert onnx_scorer(graph(times, initializers=[weights]))(X).shape == (200,)   # with the numbers inside it answers
    with pytest.raises(ValueError, match="not an ONNX model"): load_bundle(forged(content=model))


@pytest.mark.parametrize("width", [1, 3])
def test_several_values_a_row_are_refused(forged, width):
    wide = graph(helper.make_node("MatMul", ["X", "w"], ["Y"]), initializers=[numpy_helper.from_array(np.ones((2, width), np.float32), "w")], width=width)
    with pytest.raises(ValueError, match="not one for each row"): load_bundle(forged(content=wide))


def test_another_number_of_columns_is_refused():
    names = ["a", "b", "c"]
    column = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1])
    made = helper.make_graph([helper.make_node("Concat", ["a", "b"], ["Y"], axis=1)], "g", [column(n) for n in names], [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 2])])
    score = onnx_scorer(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    assert score(np.ones((4, 3))).shape == (4,)
    for k in (2, 4):
        with pytest.raises(ValueError, match=f"takes 3 columns, there are {k}"): score(np.ones((4, k)))


def a_tree(**changed):
    "A tree of one question in ONNX, with one of its tables changed."
    fields = dict(n_targets=1, nodes_treeids=[0]*3, nodes_nodeids=[0, 1, 2], nodes_featureids=[0]*3, nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[.5, 0., 0.],
                  nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[1., 2.])
    node = helper.make_node("TreeEnsembleRegressor", ["X"], ["Y"], domain="ai.onnx.ml", **{**fields, **changed})
    shape = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1])
    made = helper.make_graph([node], "g", [shape("X")], [shape("Y")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize("changed", [{"nodes_truenodeids": [10**9, 0, 0]}, {"nodes_truenodeids": [-7, 0, 0]}, {"nodes_truenodeids": [0, 0, 0]}, {"nodes_featureids": [10**6, 0, 0]},
                                     {"nodes_featureids": [-5, 0, 0]}, {"target_nodeids": [1, 99]}, {"target_ids": [0, 10**8]}, {"n_targets": 10**9},
                                     {"nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"]}], ids=str)
def test_a_tree_that_leads_out_of_its_table_is_refused_by_the_runtime(changed):
    assert onnx_scorer(a_tree(), "value")(np.array([[0.], [1.]])).tolist() == [1., 2.]
    with pytest.raises(ValueError): onnx_scorer(a_tree(**changed), "value")(np.array([[0.], [1.]]))


@pytest.mark.parametrize("content", [b"", b"\x00"*100, b"ORTM"*50, b"\x00\x00\x00\x00ORTM" + b"\x00"*100, b"PK\x03\x04", os.urandom(1000), b"\x08\x08" + b"\x3a\xff\xff\xff\xff\x0f"], ids=range(7))
@pytest.mark.parametrize("engine", ["onnx", "skops"])
def test_a_file_that_is_no_model_is_refused(forged, engine, content):
    with pytest.raises(ValueError, match="not an ONNX model|not a readable skops file"): load_bundle(forged(engine, content))


class Gift:
    "Pickles, and is written by skops, as a call that makes a file."
    def __init__(self, marker): self.marker = marker
    def __reduce__(self): return Path.touch, (self.marker,)


@pytest.mark.parametrize("what", [{"a": 1}, 7, LabelEncoder().fit([1, 2]), LogisticRegression(), make_pipeline(FunctionTransformer(), LogisticRegression()), np.ones(3), "text"], ids=range(7))
def test_what_skops_reads_and_is_no_fitted_model_is_refused(forged, what):
    with pytest.raises(ValueError, match="restore the bundle"): load_bundle(forged("skops", skops.io.dumps(what)))


def test_types_that_a_file_or_card_declares_itself_are_not_trusted(forged, tmp_path):
    marker = tmp_path/"marker"
    for i, payload in enumerate((make_pipeline(FunctionTransformer(os.system), LogisticRegression().fit(X, Y)), make_pipeline(FunctionTransformer(Gift(marker)), LogisticRegression().fit(X, Y)))):
        data = skops.io.dumps(payload)
        types = skops.io.get_untrusted_types(data=data)
        assert types   # there is something to be trusted
        folder = forged("skops", data, name=str(i), trusted=types, skops_trusted_types=types, lineage={"trusted": types}, parity={"trusted": types})
        (folder/"MLmodel").write_text(json.dumps({"flavors": {"sklearn": {"skops_trusted_types": types}, "python_function": {"loader_module": "os"}}}))
        with pytest.raises(ValueError, match="types that are not allowed"): load_bundle(folder)
    assert not marker.exists()


# --- sizes, and what is no file

def cases(folder, make):
    "Bundles that would cost much: name, folder."
    for file in MAX_BYTES:
        for name, put in (("a pipe", os.mkfifo), ("a device", lambda p: p.symlink_to("/dev/zero")), ("noise", lambda p: p.symlink_to("/dev/urandom")), ("a folder", Path.mkdir),
                          ("2 GB", lambda p: (p.touch(), os.truncate(p, 2**31))), ("just too large", lambda p, n=MAX_BYTES[file] + 1: (p.touch(), os.truncate(p, n))),
                          ("as large as allowed", lambda p, n=MAX_BYTES[file]: (p.touch(), os.truncate(p, n)))):
            bad = make("skops" if file == "model.skops" else "onnx", name=f"{file} is {name}")
            (bad/file).unlink()
            put(bad/file)
            yield bad
    inner = io.BytesIO()
    scipy.sparse.save_npz(inner, scipy.sparse.csr_array((300*MB//8, 1)))   # its index of rows is 150 MB of zeros, packed
    yield make(content=greedy(2_000_000_000), name="a greedy graph")
    yield make("skops", archive(("zeros.npy", 300*MB)), name="an archive of zeros")
    yield make("skops", archive(("1.npy", 100*MB), ("2.npy", 100*MB), ("3.npy", 100*MB)), name="an archive of several")
    yield make("skops", archive(("schema.json", 17*MB)), name="a long description")
    nested = io.BytesIO(skops.io.dumps(LinearDiscriminantAnalysis().fit(X, Y)))
    with zipfile.ZipFile(nested, "a") as z:
        for i in range(2): z.writestr(f"{i}.named", inner.getvalue())
    yield make("skops", nested.getvalue(), name="archives in an archive")


PROGRAM = """
import json, resource, sys, time
from mlscale.artifacts import load_bundle
import skops.io, sklearn.linear_model, sklearn.discriminant_analysis, pandas
resource.setrlimit(resource.RLIMIT_AS, (6*2**30, 6*2**30))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
for good in sys.argv[1:3]: load_bundle(good)
for folder in sys.argv[3:]:
    before, start = peak(), time.monotonic()
    try: said = repr(load_bundle(folder))
    except BaseException as e: said = f"{type(e).__name__}: {e}"
    print(json.dumps([folder, said, peak() - before, time.monotonic() - start]), flush=True)
"""


def test_what_would_cost_memory_or_time_is_refused_before_it_does(honest, forged, tmp_path):
    bad = list(map(str, cases(tmp_path, forged)))
    done = subprocess.run([sys.executable, "-c", PROGRAM, honest/"onnx", honest/"skops", *bad], capture_output=True, text=True, timeout=300)
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert [folder for folder, *_ in seen] == bad, done.stderr
    for folder, said, grown, _ in seen:
        assert said.startswith("ValueError: "), (folder, said)
        assert grown < 64, (folder, said, grown)


def test_what_is_just_within_the_limits_is_read():
    assert read_skops(archive(("zeros.npy", 10*MB))).predict(X).shape == (200,)
    assert onnx_scorer(greedy(1_000_000))(X).shape == (200,)


def test_a_million_rows_are_answered_in_pieces_as_one(honest):
    bundle = load_bundle(honest/"onnx")
    rows = np.tile(X, (700, 1))   # more than two pieces
    assert np.array_equal(bundle.predict(rows), np.tile(bundle.predict(X), 700))
