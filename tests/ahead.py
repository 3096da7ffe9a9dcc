"""What the process has imported from which kernels are forked. Nothing in it may start threads, which do not survive a fork: Polars and ONNX Runtime do.

MLflow takes Polars along where it is there, so it is told that it is not; a kernel finds it again.
"""
import os
import sys
from importlib import import_module

MOST = ("numpy", "pandas", "scipy.stats", "matplotlib.pyplot", "pyarrow.parquet", "sklearn.ensemble", "fastapi", "skops.io", "skl2onnx", "ipykernel.kernelapp", "ipykernel.ipkernel")
RECORDS = ("mlflow", "mlflow.store.model_registry.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_store")

os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_LOGGING_LEVEL="WARNING")   # as `mlscale.ledger` sets them before it imports MLflow
sys.modules["polars"] = None
for name in (*MOST, *RECORDS): import_module(name)
del sys.modules["polars"]
