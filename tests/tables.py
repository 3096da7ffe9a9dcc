"""Tables as people hold them, for the tests of whatever takes tables.

The contract, the same at every door: the answer is that of the plain DataFrame, or a short error that names the column.
"""
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

HELD = {   # the same table in other hands
    "pandas": lambda x: x,
    "Polars": pl.from_pandas,
    "Arrow": lambda x: pa.Table.from_pandas(x, preserve_index=False),
    "Arrow batch": lambda x: pa.RecordBatch.from_pandas(x, preserve_index=False),
}

NUMBERS = {   # a column of small whole numbers in other types
    **{t: lambda x, t=t: x.astype(t) for t in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
                                               "Int8", "Int64", "UInt32", "Float32", "Float64", "int64[pyarrow]", "double[pyarrow]", "category", "object")},
    "Decimal": lambda x: x.map(lambda v: decimal.Decimal(int(v))).astype(object),
}

NOT_NUMBERS = {   # and in types that are none
    "text": lambda x: x.astype(str),
    "category of text": lambda x: x.astype(str).astype("category"),
    "time": lambda x: pd.to_datetime(x, unit="s"),
    "time with a zone": lambda x: pd.to_datetime(x, unit="s", utc=True),
    "date": lambda x: pd.to_datetime(x, unit="D").dt.date,
    "duration": lambda x: pd.to_timedelta(x, unit="s"),
    "complex": lambda x: x.astype(complex),
    "list": lambda x: x.map(lambda v: [v]),
}

TIMES = {   # a column of moments in other clothes
    "datetime64": lambda x: x,
    "seconds": lambda x: x.dt.as_unit("s"),
    "with a zone": lambda x: x.dt.tz_localize("UTC"),
    "objects of Timestamp": lambda x: x.astype(object),
    "objects of datetime64": lambda x: pd.Series(list(x.to_numpy()), dtype=object),
    "datetimes of Python": lambda x: pd.Series([t.to_pydatetime() for t in x], dtype=object),
    "dates": lambda x: x.dt.date,
    "times of day": lambda x: x.dt.time,
    "periods": lambda x: x.dt.to_period("h"),
    "category": lambda x: x.astype("category"),
    "with a missing one": lambda x: x.astype(object).where(x.index > 0, None),
    "among text": lambda x: pd.Series([*x[:-1], "x"], dtype=object),
    "Arrow timestamps": lambda x: x.astype("timestamp[us][pyarrow]"),
    "Arrow dates": lambda x: x.astype("date32[pyarrow]"),
}


def reshaped(frame, column):
    "The same rows with the columns otherwise: what was done, the table, and the name an error must hold (None: the answer is the same)."
    other = next(c for c in frame if c != column)
    yield "in another order", frame[list(frame)[::-1]], None
    yield "renamed", frame.rename(columns={column: "elsewhere"}), column
    yield "missing", frame.drop(columns=column), column
    yield "twice", pd.concat([frame, frame[[column]]], axis=1), column
    yield "two names swapped", frame.rename(columns={column: other, other: column}), "swapped"


def refused(door, table, name=None):
    "The door refuses the table, in under 300 characters that hold the name."
    with pytest.raises((ValueError, TypeError)) as e: door(table)
    text = str(e.value)
    assert len(text) < 300, text
    assert name is None or name in text, text
    return text


def same_or_refused(door, table, expected, name):
    "The answer is the expected one, or an error as in `refused`; never a third thing."
    try: got = door(table)
    except (ValueError, TypeError) as e: assert len(str(e)) < 300 and name in str(e), str(e)
    else: np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


PARQUET = {   # the same table in a file, as each library writes it by default
    "pandas": lambda x, path: x.to_parquet(path, index=False),
    "Polars": lambda x, path: pl.from_pandas(x).write_parquet(path),
    "Arrow": lambda x, path: pq.write_table(pa.Table.from_pandas(x, preserve_index=False), path),
}
