"One definition of a row: learned, kept in the card, checked in two ways that agree, refused before training, counted in service."
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mlscale.artifacts import ModelVersion, load_bundle, save, write_pointer
from mlscale.batch import batch_predict
from mlscale.contract import SHARE_ROWS, ColumnRule, Contract, ContractError, ContractTally
from mlscale.service import create_app
from mlscale.training_run import train


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"carrier": rng.choice(["UA", "B6"], 3000), "dest": rng.integers(0, 5, 3000).astype(float), "hour": rng.uniform(5, 23, 3000), "temp": rng.normal(50, 10, 3000)})
    frame.loc[1000:1399, "temp"] = np.nan   # a station that was silent
    return frame


@pytest.fixture(scope="module")
def contract(reference): return Contract.learn(reference, bounds={"hour": (0, 24)}, categories=["dest"])


# ---- what is learned

def test_what_is_known_is_not_learned_what_is_learned_has_room_and_names_are_listed(reference, contract):
    carrier, dest, hour, temp = contract.columns
    assert (hour.low, hour.high) == (0, 24) and dest.categories == (0., 1., 2., 3., 4.) and carrier.categories == ("B6", "UA")
    low, high = reference.temp.min(), reference.temp.max()
    assert np.isclose(low - temp.low, .1*(high - low)) and np.isclose(temp.high - high, .1*(high - low))
    assert np.isclose(temp.null_share, 1.1*.4) and hour.null_share == 0   # of the worst thousand rows, not .13 of all
    tight = Contract.learn(reference, slack=0).columns[-1]
    assert (tight.low, tight.high, tight.null_share) == (low, high, .4)


def test_the_reference_fulfils_what_was_learned_from_it(reference, contract):
    assert contract.check(reference) is reference and contract.violations(reference) == []


def test_a_contract_survives_json_and_a_damaged_one_is_refused(contract):
    card = json.loads(json.dumps(contract.to_dict(), allow_nan=False))
    assert Contract.from_dict(card) == contract
    column = card["columns"][1]
    faults = [{"low": "a"}, {"low": 2, "high": 1}, {"null_share": 2}, {"type": "date"}, {"categories": [[1]]}, {"other": 1}, {"name": 3}]
    for bad in (None, [], {}, card | {"format": 2}, card | {"columns": 3}, *(card | {"columns": [column | fault]} for fault in faults)):
        with pytest.raises(ValueError, match="contract"): Contract.from_dict(bad)


LEARNED_FROM = [({"slack": -1}, "slack"), ({"bounds": {"x": (0, 1)}}, "no columns"), ({"categories": ["x"]}, "no columns"), ({"bounds": {"hour": (1, 0)}}, "not empty")]


@pytest.mark.parametrize(("arguments", "words"), LEARNED_FROM)
def test_what_cannot_be_learned_is_named(reference, arguments, words):
    with pytest.raises(ValueError, match=words): Contract.learn(reference, **arguments)


# ---- what is said

def test_all_that_is_wrong_is_said_at_once_with_rows_and_examples(reference, contract):
    broken = reference.rename(columns={"carrier": "airline"}).assign(hour="7", temp=lambda x: x.temp.where(x.index != 17, 1e4), dest=np.nan)
    with pytest.raises(ContractError) as e: contract.check(broken)
    found = {(v.column, v.rule): v for v in e.value.violations}
    assert set(found) == {("airline", "names"), ("carrier", "names"), ("hour", "type"), ("temp", "range"), ("dest", "missing")}
    assert found["temp", "range"].rows == 1 and found["temp", "range"].examples == ((17, 1e4),) and found["dest", "missing"].rows == found["hour", "type"].rows == 3000
    assert "'temp', range: 1 of 3,000 rows, such as 10000 in row 17" in str(e.value) and str(e.value).count("\n") == 5


def spoiled(reference, seed, n, fault, column):
    rng = np.random.default_rng(seed)
    rows = reference.sample(n, random_state=seed, replace=True).reset_index(drop=True)
    rows.loc[rng.random(n) < rng.choice([.001, .3, 1]), column] = {"far": 1e9, "infinite": np.inf, "missing": np.nan, "unknown": -7.}[fault]
    return rows


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 20, SHARE_ROWS - 1, SHARE_ROWS, 2500]), st.sampled_from(["far", "infinite", "missing", "unknown"]), st.sampled_from(["dest", "hour", "temp"]))
def test_pandera_and_numpy_say_the_same(reference, contract, seed, n, fault, column):
    rows, theirs = spoiled(reference, seed, n, fault, column), []
    try: contract.check(rows)
    except ContractError as e: theirs = e.violations
    assert sorted(map(str, theirs)) == sorted(map(str, contract.violations(rows)))


def test_shares_are_judged_on_many_rows_and_never_on_few(reference, contract):
    gone = reference.assign(temp=np.nan)
    assert contract.violations(gone.head(SHARE_ROWS - 1)) == []
    (found,) = contract.violations(gone.head(SHARE_ROWS))
    assert (found.column, found.rule, found.rows) == ("temp", "null share", SHARE_ROWS)
    assert [v.rule for v in contract.violations(reference.head(1).assign(hour=np.nan))] == ["missing"]   # never missing in the reference: not in one row


# ---- counting

def test_a_tally_counts_in_any_order_and_merges_and_restarts(reference, contract):
    rows = spoiled(reference, 5, 2500, "missing", "temp").assign(hour=lambda x: x.hour.where(x.index % 5 > 0, 99.))
    whole = ContractTally(contract)
    whole.update(rows)
    apart = ContractTally(contract)
    for start in range(0, 2500, 30):
        tally = ContractTally(contract)
        tally.update(rows[start:start + 30])
        apart.merge(ContractTally.from_dict(json.loads(json.dumps(tally.to_dict())), contract))
    assert whole.rows == apart.rows == 2500 and whole.broken["hour"] == apart.broken["hour"] == {"range": 500}
    silent = ContractTally(contract)
    said = [silent.update(reference.head(60).assign(temp=np.nan)) for _ in range(40)]
    assert silent.broken == {"temp": {"null share": 2*1020}} and [bool(found) for found in said].count(True) == 2   # each time a thousand rows are together
    with pytest.raises(ValueError, match="another contract"): apart.merge(ContractTally(Contract.learn(reference)))


# ---- before training

def test_rows_that_break_the_contract_are_not_trained_on():
    X, y = pd.DataFrame({"hour": [6., 9., 15., 18.]}), [0, 0, 1, 1]
    strict = Contract((ColumnRule("hour", low=7, high=24),), 4)
    with pytest.raises(ContractError, match="'hour', range: 1 of 4 rows, such as 6 in row 0"): train(X, y, kind="logistic", contract=strict)
    own = Contract((ColumnRule("hour", low=0, high=24),), 4)
    assert train(X, y, kind="logistic", contract=own).contract is own


# ---- in the card, in batches and online

@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    X, y = pd.DataFrame({"hour": np.tile([6., 9., 15., 18.], 500), "temp": np.linspace(20, 80, 2000)}), np.tile([0, 0, 1, 1], 500)
    box, own = tmp_path_factory.mktemp("bundles"), Contract.learn(X, bounds={"hour": (0, 24)})
    bundle = save(LogisticRegression().fit(X, y), box/"late"/"1", example=X, contract=own)
    write_pointer(box/"late", "production", ModelVersion("late", 1, bundle.sha256))
    return box, bundle, own


def test_a_card_holds_the_contract_and_an_older_card_none(deployed, tmp_path):
    box, bundle, own = deployed
    assert bundle.contract == own == load_bundle(box/"late"/"1").contract
    plain = save(LogisticRegression().fit([[1.], [2.]], [0, 1]), tmp_path/"plain", example=[[1.]])
    assert plain.contract is None
    card = json.loads((tmp_path/"plain"/"card.json").read_text())
    del card["contract"]
    (tmp_path/"plain"/"card.json").write_text(json.dumps(card))
    assert load_bundle(tmp_path/"plain").contract is None
    for bad in ({"format": 9}, 3, own.to_dict()):   # unreadable, and one of other columns
        (tmp_path/"plain"/"card.json").write_text(json.dumps(card | {"contract": bad}))
        with pytest.raises(ValueError, match="contract"): load_bundle(tmp_path/"plain")
    with pytest.raises(ValueError, match="contract"): save(LogisticRegression().fit([[1.], [2.]], [0, 1]), tmp_path/"other", example=[[1.]], contract=own)


def metric(client): return [line for line in client.get("/metrics").text.splitlines() if line.startswith("mlscale_contract_violations_total")]


def test_a_service_counts_a_heat_wave_and_answers(deployed):
    with TestClient(create_app(deployed[0])) as client:
        assert client.get("/health/ready").json()["contract"] == {"rows": 0, "broken": {}}
        assert client.post("/predict", json={"values": [[15., 110.], [15., 50.]]}).status_code == 200
        assert client.post("/predict", json={"features": {"temp": 111., "hour": 25.}}).status_code == 200
        assert client.get("/health/ready").json()["contract"] == {"rows": 3, "broken": {"temp": {"range": 2}, "hour": {"range": 1}}}
        assert sorted(metric(client)) == ['mlscale_contract_violations_total{column="hour",rule="range"} 1.0', 'mlscale_contract_violations_total{column="temp",rule="range"} 2.0']
        assert client.post("/predict", json={"values": [["15", 50.]]}).status_code == 422   # a type is refused as ever


def test_a_service_refuses_where_it_was_asked_to_and_says_why(deployed):
    with TestClient(create_app(deployed[0], on_violation="refuse")) as client:
        refused = client.post("/predict", json={"values": [[15., 50.], [15., 110.]]})
        assert refused.status_code == 422 and "'temp', range: 1 of 2 rows, such as 110 in row 1" in refused.json()["detail"]
        assert client.post("/predict", json={"values": [[15., 50.]]}).status_code == 200 and len(metric(client)) == 1
    with pytest.raises(ValueError, match="on_violation"): create_app(deployed[0], on_violation="ignore")


def test_a_batch_counts_in_its_manifest_or_refuses_and_leaves_the_output_as_it_was(deployed, spark, tmp_path):
    rows = pd.DataFrame({"id": range(3000), "hour": 15., "temp": np.where(np.arange(3000) % 10, 50., 110.)})
    rows.to_parquet(tmp_path/"hot.parquet", row_group_size=500)
    manifest = batch_predict(deployed[1].path, tmp_path/"hot.parquet", tmp_path/"out", spark=spark, partitions=3)
    assert manifest.rows == 3000 and manifest.violations == {"temp": {"range": 300}}
    with pytest.raises(ValueError, match='"temp": {"range": 300}'): batch_predict(deployed[1].path, tmp_path/"hot.parquet", tmp_path/"new", spark=spark, on_violation="refuse")
    assert not (tmp_path/"new").exists() and (tmp_path/"out").exists()
    rows.assign(temp=50.).to_parquet(tmp_path/"mild.parquet")
    assert batch_predict(deployed[1].path, tmp_path/"mild.parquet", tmp_path/"new", spark=spark, on_violation="refuse").violations == {}


def test_what_serves_a_contract_imports_none_of_the_heavy_packages(deployed):
    program = f"""
import sys
from mlscale.service import create_app
app = create_app({str(deployed[0])!r})
assert app.state.live.deployed.bundle.contract.violations([[25., 50.]])
print(sorted({{"pandas", "sklearn", "pandera", "mlflow", "pyspark"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
