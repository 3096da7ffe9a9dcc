"What travels over the wire: the document says every answer there is, what is malformed or slow is ended and counted, and a line of the log can be joined with others."
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pandas as pd
import pytest
import requests
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.generation import GenerationMode
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlscale.artifacts import ModelVersion, load_bundle, save, write_pointer
from mlscale.contract import Contract
from mlscale.limits import MAX_HEAD, make_key
from mlscale.serving import create_app, serving_process


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    "A model of a text, a number that may be missing, and one that may not; with its contract."
    box, rng = tmp_path_factory.mktemp("bundles"), np.random.default_rng(0)
    x = pd.DataFrame({"carrier": rng.choice(["UA", "B6", "DL"], 600), "temp": rng.normal(15, 9, 600), "hour": rng.integers(5, 24, 600).astype(float)})
    x.loc[::5, "temp"] = np.nan
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["carrier"]), remainder="passthrough")
    model = make_pipeline(columns, HistGradientBoostingClassifier(max_iter=20)).fit(x, x.hour > 15)
    bundle = save(model, box / "late" / "1", example=x, contract=Contract.learn(x, bounds={"hour": (0, 24)}))
    assert bundle.engine == "onnx"
    write_pointer(box / "late", "production", ModelVersion("late", 1, bundle.sha256))
    return box


@pytest.fixture(scope="module")
def url(bundles, tmp_path_factory):
    "A real server with a log, whose patience is short."
    with serving_process(bundles, log=tmp_path_factory.mktemp("log") / "log.db", patience=2.) as url: yield url


WANTED = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda m: m.value)
@pytest.mark.parametrize("operation", ["POST /predict", "POST /outcomes", "POST /reload", "GET /model", "GET /metrics", "GET /health/ready", "GET /health/live"])
def test_no_question_that_a_machine_thinks_of_draws_an_answer_that_the_document_does_not_know(operation, mode, url, request):
    method, path = operation.split()
    asked = schemathesis.openapi.from_url(f"{url}/openapi.json")[path][method]
    bound = (1500 if path == "/predict" else 300 if path == "/outcomes" else 20) * (10 if request.config.getoption("--slow") else 1)
    statuses, session = [], requests.Session()

    @settings(max_examples=bound, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(asked.as_strategy(mode))
    def try_it(case):
        response = case.call(session=session, timeout=30)
        statuses.append(response.status_code)
        in_time = "Request-Timeout-Ms" not in (case.headers or {})
        assert response.status_code < 500 or response.status_code == 503 and not in_time, (response.status_code, response.text)
        case.validate_response(response, checks=WANTED)
    try_it()
    print(operation, mode, {s: statuses.count(s) for s in set(statuses)})
