"A guess is kept before its answer is shown and not changed after it; nothing of the reader's is overwritten or sent into a stored page."
import json

import pytest

from mlscale.guesses import answer, calibration, guess


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.delenv("IN_TEST", raising=False)
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path))
    return tmp_path / "state" / "guesses.json"


def test_a_guess_may_change_until_its_answer_was_shown(kept):
    assert "put a number" in repr(guess("q", within=.1)) and not kept.exists()
    guess("q", .2, sure=.6, within=.1)
    guess("q", .5, sure=.8, within=.1)
    assert "right" in repr(answer("q", .55)) and "stays" in repr(guess("q", .55, sure=.99, within=.1))
    assert calibration().guesses.loc["q", ["guess", "sure", "truth"]].tolist() == [.5, .8, .55]
    answer("q", .9)
    assert calibration().guesses.truth["q"] == .55


def test_right_means_within_and_groups_count():
    for name, value in (("a", 1.), ("b", 1.05), ("c", 3.)):
        guess(name, value, sure=.7, within=.1)
        answer(name, 1.)
    guess("open", 1., sure=.1, within=.1)
    seen = calibration()
    assert seen.guesses.right.to_dict() == {"a": True, "b": True, "c": False}
    assert seen.groups.n.tolist() == [3] and seen.groups.right.tolist() == pytest.approx([2/3])
    assert repr(seen).startswith("2 of 3 guesses right; you were 70%")


@pytest.mark.parametrize("words", [
    {"value": 1}, {"sure": .5}, {"value": "1", "sure": .5}, {"value": 1, "sure": 1}, {"value": 1, "sure": 0}, {"value": float("inf"), "sure": .5}, {"value": 1, "sure": .5, "within": 0},
])
def test_what_is_no_guess_is_refused_and_not_kept(kept, words):
    with pytest.raises(ValueError, match="guess|value|sure|within"): guess("q", **{"within": 1, **words})
    assert not kept.exists()


@pytest.mark.parametrize("text", ["{ broken", "[]", '{"format": 1}', '{"format": 2, "guesses": {}}'])
def test_a_file_that_cannot_be_read_is_named_and_left_alone(kept, text):
    kept.parent.mkdir()
    kept.write_text(text)
    for attempt in (lambda: guess("q", 1, sure=.5, within=1), lambda: answer("q", 1), calibration):
        with pytest.raises(ValueError, match="guesses.json.*move it away"): attempt()
    assert kept.read_text() == text


def test_a_damaged_guess_does_not_hide_the_others(kept):
    guess("q", 1, sure=.5, within=1)
    answer("q", 1)
    state = json.loads(kept.read_text())
    kept.write_text(json.dumps(state | {"guesses": state["guesses"] | {"bad": {"guess": "x"}}}))
    assert list(calibration().guesses.index) == ["q"]


def test_stored_pages_are_the_same_for_everybody(kept, monkeypatch):
    guess("q", 1, sure=.5, within=1)
    monkeypatch.setenv("IN_TEST", "1")
    assert "put a number" in repr(guess("q", within=1)) and "no guess" in repr(answer("q", 1)) and not len(calibration().guesses)


def test_the_record_is_a_sentence_and_a_table_in_a_notebook():
    assert "<table" not in calibration()._repr_html_()
    guess("<q>", 1, sure=.5, within=1)
    answer("<q>", 1.5)
    page = calibration()._repr_html_()
    assert "1 of 1 guesses right" in page and "&lt;q&gt;" in page and "<q>" not in page and "1.5" in page
