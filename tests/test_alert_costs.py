"An account of alerts: each page is about a trouble or a wolf, a trouble costs until it is mended, and people who have heard too many wolves stay in bed."
import numpy as np
import pandas as pd
import pytest

from mlscale.alert_costs import Incident, alert_account

T0 = pd.Timestamp("2013-09-02", tz="UTC")
at = lambda days: T0 + pd.Timedelta(days=days)
FAULTS = [Incident("one", at(10), [100.]*20), Incident("two", at(60), [1., 2, 3, 4])]


def by_the_minute(pages, faults, page_cost, mend, after, patience, memory):
    "The same account, walking through time."
    found, wolves, unheard, asleep = {}, [], 0, 0
    for page in sorted(pages):
        deaf = patience is not None and len([w for w in wolves if w > page - memory]) >= patience   # nobody gets up, so it costs nothing
        asleep += deaf
        about = [f for f in faults if f.begin <= at(page) < f.end + pd.Timedelta(days=after)]
        if not about: wolves.append(page)
        elif deaf: unheard += 1
        else:
            for f in about:
                if at(page) < f.end: found.setdefault(f.name, page)
    damage = 0.
    for f in faults:
        for minute in range(len(f.costs)*1440):
            moment = f.begin + pd.Timedelta(minutes=minute)
            if f.name not in found or moment < at(found[f.name] + mend): damage += f.costs[minute//1440]/1440
    return damage, (len(pages) - asleep)*page_cost, len(wolves), unheard


@pytest.mark.parametrize("seed", range(6))
def test_the_account_is_that_of_a_walk_through_time(seed):
    rng = np.random.default_rng(seed)
    pages = np.round(rng.uniform(0, 80, 8)*24)/24
    how = dict(mend=1.5, after=3., patience=(None, 1, 2)[seed % 3], memory=20.)
    damage, paging, wolves, unheard = by_the_minute(pages, FAULTS, 7., **how)
    got = alert_account([at(p) for p in pages], FAULTS, page_cost=7, patience=how["patience"], **{k: pd.Timedelta(days=how[k]) for k in ("mend", "after", "memory")})
    assert (got.damage, got.paging, got.wolves, got.unheard) == (pytest.approx(damage, rel=1e-9), paging, wolves, unheard)
    assert got.pages == got.true + got.wolves and got.total == got.damage + got.paging


def test_never_looking_costs_all_and_knowing_at_once_only_the_mending():
    assert alert_account([], FAULTS, page_cost=1).total == 2010 and alert_account([], FAULTS, page_cost=1).days == (np.inf, np.inf)
    told = alert_account([f.begin for f in FAULTS], FAULTS, page_cost=1)
    assert told.damage == 101 and told.days == (0, 0) and told.paging == 2
    late = alert_account([at(31)], FAULTS, page_cost=1)   # true, and of no use
    assert (late.true, late.wolves, late.damage) == (1, 0, 2010)


def test_what_makes_no_sense_is_refused():
    for wrong in (dict(page_cost=-1), dict(page_cost=np.nan), dict(page_cost=1, patience=0)):
        with pytest.raises(ValueError): alert_account([], FAULTS, **wrong)
    with pytest.raises(ValueError, match="a time with a zone"): alert_account(["2013-09-02"], FAULTS, page_cost=1)
    with pytest.raises(ValueError, match="costs"): Incident("x", at(0), [np.nan])
