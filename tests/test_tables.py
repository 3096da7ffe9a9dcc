"Models and the tables they are given: columns by name, or refused by name."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from tables import HELD, NOT_NUMBERS, NUMBERS, refused, reshaped, same_or_refused

from mlscale.artifacts import Signature, load_bundle, save

RNG = np.random.default_rng(0)
ROWS = pd.DataFrame(RNG.integers(0, 10, (400, 3)).astype(float), columns=["a", "b", "c"])
LATE = (ROWS.a + 2*ROWS.b - ROWS.c + RNG.normal(size=400) > 9).astype(int)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory): return save(LogisticRegression().fit(ROWS, LATE), tmp_path_factory.mktemp("tables")/"b", example=ROWS)


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    rows = ROWS.mask(RNG.random(ROWS.shape) < .2)
    return save(HistGradientBoostingClassifier(max_iter=10).fit(rows, LATE), tmp_path_factory.mktemp("tables")/"gaps", example=rows)


some_rows = st.lists(st.integers(0, 399), max_size=4).map(lambda chosen: ROWS.iloc[chosen].reset_index(drop=True))


@settings(deadline=None, max_examples=50)
@given(some_rows, st.sampled_from(sorted(HELD)), st.sampled_from(sorted(NUMBERS)), st.permutations(["a", "b", "c"]))
def test_a_prediction_does_not_depend_on_who_holds_the_table(bundle, rows, held, kind, order):
    table = rows.assign(b=NUMBERS[kind](rows.b))[order]
    try: table = HELD[held](table)
    except Exception: return   # that library cannot hold it
    same_or_refused(bundle.predict, table, bundle.predict(rows.to_numpy()), "'b'")


@pytest.mark.parametrize("kind", sorted(NUMBERS))
def test_every_width_of_a_number_is_taken(bundle, kind):
    np.testing.assert_array_equal(bundle.predict(ROWS.assign(b=NUMBERS[kind](ROWS.b))), bundle.predict(ROWS))


@pytest.mark.parametrize("kind", sorted(NOT_NUMBERS))
@pytest.mark.parametrize("held", sorted(HELD))
def test_what_is_no_number_is_refused_by_name(bundle, held, kind):
    if kind == "complex" and held != "pandas": return
    refused(bundle.predict, HELD[held](ROWS.assign(b=NOT_NUMBERS[kind](ROWS.b))), "'b'")


@pytest.mark.parametrize("held", sorted(HELD))
@pytest.mark.parametrize("n", [0, 1, 400])
def test_columns_go_by_name_or_are_refused_by_name(bundle, held, n):
    rows = ROWS.head(n)
    for what, table, name in reshaped(rows, "b"):
        if what == "twice" and held != "pandas": continue   # no other library makes such a table by accident
        if name is None: np.testing.assert_array_equal(bundle.predict(HELD[held](table)), bundle.predict(rows.to_numpy()))
        elif name != "swapped": refused(bundle.predict, HELD[held](table), "'b'")
    assert "'z'" in refused(bundle.predict, HELD[held](rows.assign(z=1.)))


@pytest.mark.parametrize("dtype", ["float64", "Float64", "float64[pyarrow]", "Float32", "object"])
@pytest.mark.parametrize("held", sorted(HELD))
def test_what_is_missing_is_missing_in_every_type(gaps, held, dtype):
    rows = ROWS.head(20).copy()
    rows.iloc[::3, 1] = np.nan
    np.testing.assert_allclose(gaps.predict(HELD[held](rows.astype(dtype))), gaps.predict(rows.to_numpy()))


def test_a_mask_means_missing(bundle, gaps):
    values = ROWS.head(4).to_numpy()
    masked = np.ma.masked_array(values, values == values[1, 2])
    np.testing.assert_array_equal(gaps.predict(masked), gaps.predict(masked.filled(np.nan)))
    refused(bundle.predict, masked, "missing")


@pytest.mark.parametrize("held", sorted(HELD))
def test_an_example_is_taken_by_name_too(tmp_path, held):
    model = LogisticRegression().fit(ROWS, LATE)
    saved = save(model, tmp_path/"b", example=HELD[held](ROWS[["c", "a", "b"]]))
    assert saved.columns == ["a", "b", "c"]   # the order in which the model was trained
    np.testing.assert_allclose(load_bundle(saved.path).predict(ROWS), model.predict_proba(ROWS)[:, 1], atol=1e-6)
    refused(lambda example: save(model, tmp_path/"c", example=example), HELD[held](ROWS.rename(columns={"b": "z"})), "'b'")


def test_an_example_without_names_goes_by_position(tmp_path):
    saved = save(LogisticRegression().fit(ROWS, LATE), tmp_path/"b", example=ROWS.to_numpy())
    assert saved.columns == ["a", "b", "c"]
    bare = save(LogisticRegression().fit(ROWS.to_numpy(), LATE), tmp_path/"bare", example=ROWS.to_numpy())
    assert bare.columns == ["x0", "x1", "x2"]
    np.testing.assert_array_equal(bare.predict(ROWS.set_axis([0, 1, 2], axis=1)), bare.predict(ROWS.to_numpy()))
    refused(bare.predict, ROWS, "'x0'")   # the table has names, and they are not the model's


@pytest.mark.parametrize("example", [pd.DataFrame(), [], [[]], np.empty((0, 3)), 1., [1., 2.], [[1.], [1., 2.]], {"a": []}, None])
def test_a_signature_needs_a_table(example): refused(Signature.of, example, "example")
