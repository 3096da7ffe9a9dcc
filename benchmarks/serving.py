"""What our service costs beside other servers of the same model: boosted trees on 45 columns as ONNX, a row a question, over HTTP on loopback.

    python benchmarks/serving.py          LitServe and KServe's SDK: some eight minutes, on a machine that does nothing else
    python benchmarks/serving.py --all    also BentoML, MLServer, Ray Serve and `mlflow models serve`: their environments take gigabytes; some fifteen
                                          minutes (`--rounds 1 --parts closed`: three), and tables of their own, `serving_all` and so on
    python benchmarks/serving.py --only NAME NAME ...    a few of them, and nothing is kept

Ours is `mlscale serve` as a site would run it: validation, contract, metrics, admission, hot swap, and a log in which an answer is recorded before it
is given. The peers and the floors have none of that; they hold the same ONNX file with the same settings, in the form which their documentation
recommends. Two floors tell what the rest costs: FastAPI + ONNX, whose handler is five lines, and bare ASGI + ONNX.

Four tables. `serving`: clients that ask again as soon as they are answered (1, 8 and 64 of them; who is refused waits as long as it is told),
the contenders in turn, the median of some rounds, with the seconds of the processor that the server used. `serving_log`: the same of ours alone, where the log is written on the event loop, by its
thread, and where there is none. `serving_start`: from the start of the
process to its first answer, and the memory then and after the load. `serving_goodput`: questions that come at random moments whether the server answers or not, and count when they are answered within
`WITHIN` seconds of the moment they were due; sustainable is the highest rate of a ladder at which 99 % are, and the same is asked of all at 1, 2
and 3 times their own. Who is not answered within a second hangs up. All clients state in `Request-Timeout-Ms` how long they wait.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).resolve().parent))
import psutil
from harness import ROOT, peer, store

WITHIN = .05              # seconds: the stated latency
LASTS, WARM = 2., .5      # seconds of a measurement, and before it
CLIENTS = (1, 8, 64)
PACKAGES = ("numpy", "onnxruntime", "fastapi", "uvicorn", "uvloop", "httptools")

MODEL = """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
def loaded():
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda rows: session.run(None, {name: np.array(rows, np.float32)})[0][:, 1].tolist()
port = int(sys.argv[2])
"""
ASGI = MODEL + """
import json
import uvicorn
score = loaded()
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = json.dumps({"prediction": score([json.loads(body)["values"]])}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})
uvicorn.run(app, port=port, log_level="warning", access_log=False)
"""
FASTAPI = MODEL + """
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
score, app = loaded(), FastAPI()
class Question(BaseModel):
    values: list[float | None]
@app.post("/predict")
async def predict(question: Question):
    return {"prediction": score([question.values])}
uvicorn.run(app, port=port, log_level="warning", access_log=False)
"""
LITSERVE = MODEL + """
import litserve
class Late(litserve.LitAPI):
    def setup(self, device): self.score = loaded()
    def decode_request(self, request): return request["values"]
    def batch(self, inputs): return inputs
    def unbatch(self, output): return output
    def predict(self, x): return self.score(x)
    def encode_response(self, output): return {"prediction": [output]}
if __name__ == "__main__":
    server = litserve.LitServer(Late(max_batch_size=64, batch_timeout=0), accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
"""
KSERVE = MODEL + """
from kserve import Model, ModelServer
class Late(Model):
    def load(self):
        self.score, self.ready = loaded(), True
        return self.ready
    async def predict(self, payload, headers=None): return {"predictions": self.score(payload["instances"])}
if __name__ == "__main__":
    model = Late("late")
    model.load()
    ModelServer(http_port=port, enable_grpc=False).start([model])
"""
BENTOML = """
import bentoml, os, sys
import numpy as np, onnxruntime
@bentoml.service(workers=1)
class Late:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["ONNX_FILE"], options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name
    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=50)
    def predict(self, values: np.ndarray) -> np.ndarray: return self.session.run(None, {self.name: values.astype(np.float32)})[0][:, 1]
if __name__ == "__main__":
    os.environ["ONNX_FILE"] = sys.argv[1]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", f"{os.path.basename(__file__)[:-3]}:Late", "--port", sys.argv[2]])
"""
MLSERVER = MODEL + """
import asyncio
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
class Late(MLModel):
    async def load(self):
        self.score = loaded()
        return True
    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("predict", np.array(self.score(rows)))])
if __name__ == "__main__":
    settings = Settings(host="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2, parallel_workers=0)
    asyncio.run(MLServer(settings).start([ModelSettings(name="late", implementation=Late)]))
"""
RAY = """
import sys, time
from ray import serve
@serve.deployment
class Late:
    def __init__(self, file):
        import numpy, onnxruntime   # in the process that answers: a session does not travel
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        self.score = lambda rows: session.run(None, {name: numpy.array(rows, numpy.float32)})[0][:, 1].tolist()
    async def __call__(self, request): return {"prediction": self.score([(await request.json())["values"]])}
if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Late.bind(sys.argv[1]), route_prefix="/predict")
    while True: time.sleep(1)
"""
MLFLOW = """
import os, sys
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]   # it starts uvicorn by name
import mlflow, onnx
place = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mlflow_model")
if not os.path.exists(place): mlflow.onnx.save_model(onnx.load(sys.argv[1]), place)
os.execv(sys.executable, [sys.executable, "-m", "mlflow", "models", "serve", "-m", place, "-p", sys.argv[2], "--env-manager", "local"])
"""
OURS = "mlscale, all of it"
BY_THREAD, UNLOGGED = "mlscale, the log by its thread", "mlscale, no log"
MAIN = "from mlscale import cli, log_writer\n{}\nraise SystemExit(cli.main())"
WAYS = {OURS: MAIN.format(""), BY_THREAD: MAIN.format("log_writer.ON_LOOP = -1"), UNLOGGED: MAIN.format("")}
BESIDE = ("FastAPI + ONNX", "bare ASGI + ONNX")   # in our own environment
V2 = lambda row: {"inputs": [{"name": "X", "shape": [1, len(row)], "datatype": "FP32", "data": row}]}
# name: packages of the environment, program, path, question
SERVERS = {
    **{name: (None, None, "/predict", lambda row: {"values": row}) for name in WAYS},
    "FastAPI + ONNX": (None, FASTAPI, "/predict", lambda row: {"values": row}),
    "bare ASGI + ONNX": (None, ASGI, "/predict", lambda row: {"values": row}),
    "LitServe": (("litserve", "onnxruntime", "numpy"), LITSERVE, "/predict", lambda row: {"values": row}),
    "KServe's SDK": (("kserve", "onnxruntime", "numpy"), KSERVE, "/v1/models/late:predict", lambda row: {"instances": [row]}),
    "BentoML": (("bentoml", "onnxruntime", "numpy"), BENTOML, "/predict", lambda row: {"values": [[float("nan") if x is None else x for x in row]]}),
    "MLServer": (("mlserver", "onnxruntime", "numpy"), MLSERVER, "/v2/models/late/infer", V2),
    "Ray Serve": (("ray[serve]", "onnxruntime", "numpy"), RAY, "/predict", lambda row: {"values": row}),
    "mlflow models serve": (("mlflow", "onnx", "onnxruntime", "numpy"), MLFLOW, "/invocations", lambda row: {"inputs": [[float("nan") if x is None else x for x in row]]}),
}
ALL = tuple(name for name in SERVERS if name not in (BY_THREAD, UNLOGGED))
USUAL = ALL[:5]


def prepare(place):
    "Train, deploy, and give rows with their predictions. In a process of its own, for scikit-learn and Spark's neighbours are not small."
    from mlscale.artifacts import save
    from mlscale.contract import Contract
    from mlscale.features import FEATURES, load_features
    from mlscale.pointer import ModelVersion, write_pointer
    from mlscale.training import fit_model
    year = load_features()
    year = year[year.late.notna()]
    train, asked = year[year.event_timestamp.dt.month <= 6], year[year.event_timestamp.dt.month == 7][FEATURES].iloc[:2000]
    bundle = save(fit_model(train[FEATURES], train.late), place / "late" / "1", example=train[FEATURES].iloc[::16], contract=Contract.learn(train[FEATURES]))
    write_pointer(place / "late", "production", ModelVersion("late", 1, bundle.sha256))
    shutil.copy(place / "late" / "1" / "model.onnx", place / "model.onnx")
    rows = [[None if x != x else x for x in row] for row in asked.values.tolist()]
    (place / "rows.json").write_text(json.dumps({"rows": rows, "predictions": bundle.predict(asked).tolist()}))


def free_port():
    import socket
    with socket.create_server(("127.0.0.1", 0)) as taken: return taken.getsockname()[1]


def tree(process):
    "A process and all that it started."
    try: return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess: return []


def memory(process):
    "Megabytes of a process and its children; what they share counts once."
    total = 0
    for one in tree(process):
        try: total += one.memory_full_info().pss
        except psutil.NoSuchProcess: continue
    return total/2**20


def processor(process):
    "Seconds of the processor that a process and its children have used."
    return sum(sum(one.cpu_times()[:2]) for one in tree(process))


def first_answer(port, path, question, child):
    "Ask until there is an answer."
    text, deadline = json.dumps(question).encode(), time.monotonic() + 120
    while True:
        try:
            with urlopen(Request(f"http://127.0.0.1:{port}{path}", text, {"Content-Type": "application/json"}), timeout=5) as answer: return json.load(answer)
        except OSError as e:
            if child.poll() is not None or time.monotonic() > deadline: raise RuntimeError(f"no answer at {path}: {e}") from e
            time.sleep(.005)


class Server:
    "A contender that runs: where it is, what it is asked, how long it took to start."
    def __init__(self, name, place):
        packages, program, self.path, question = SERVERS[name]
        self.name, self.port = name, free_port()
        known = json.loads((place / "rows.json").read_text())
        python = sys.executable if packages is None else peer(name.split()[0].lower().partition("'")[0], packages)
        if program is None:
            logged = [] if name == UNLOGGED else ["--log", place / f"{self.port}.db"]
            command = [sys.executable, "-c", WAYS[name], "serve", "--bundles", place, "--port", self.port, *logged]
        else:
            (script := place / f"server_{self.port}.py").write_text(program)
            command = [python, script, place / "model.onnx", self.port]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        begin = time.perf_counter()
        with open(os.path.devnull if not os.environ.get("SHOW") else f"/tmp/{self.port}.log", "w") as said:
            self.child = subprocess.Popen([str(c) for c in command], cwd=place, env=environment, stdout=said, stderr=said, start_new_session=True)
        self.process = psutil.Process(self.child.pid)
        try: first_answer(self.port, self.path, question(known["rows"][0]), self.child)
        except RuntimeError:
            self.close()
            raise
        self.start = time.perf_counter() - begin
        for row, expected in list(zip(known["rows"], known["predictions"]))[:50]:
            answer = first_answer(self.port, self.path, question(row), self.child)
            if abs(predicted(answer) - expected) > 1e-5: raise RuntimeError(f"{name}: {answer} and not {expected}")
        self.memory = memory(self.process)
        self.texts = [http(self.path, question(row), int(WITHIN*1000)) for row in known["rows"]]

    def asked(self, **how):
        "What the load finds out."
        what = {"place": ["127.0.0.1", self.port], "texts": self.texts, "lasts": LASTS, **how}
        before = processor(self.process)
        done = subprocess.run([sys.executable, Path(__file__).with_name("load.py")], input=json.dumps(what), capture_output=True, text=True)
        if done.returncode: raise RuntimeError(f"{self.name}: {done.stderr[-2000:]}")
        found = json.loads(done.stdout)
        return found | {"processor": (processor(self.process) - before)/max(found["answers"], 1)}

    def close(self):
        for one in tree(self.process):
            try: one.send_signal(signal.SIGTERM)
            except psutil.NoSuchProcess: continue
        try: self.child.wait(10)
        except subprocess.TimeoutExpired: pass
        try: os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        self.child.wait()


def predicted(answer):
    "The prediction in an answer, whatever the server puts around it."
    while not isinstance(answer, float):
        if isinstance(answer, list): answer = answer[-1]
        else: answer = next(answer[key] for key in ("prediction", "predictions", "probabilities", "outputs", "data") if key in answer)
    return answer


def http(path, question, waits):
    "A question as it goes over the wire."
    body = json.dumps(question)
    return (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nRequest-Timeout-Ms: {waits}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}")


@contextmanager
def running(name, place):
    "A server for the time of a block."
    server = Server(name, place)
    try: yield server
    finally: server.close()


def able(names, place):
    "Those that can be installed and answer; the others are said, with the reason, and left out."
    there = []
    for name in names:
        try:
            with running(name, place): there.append(name)
        except (RuntimeError, subprocess.SubprocessError) as e: print(f"{name} is left out: {str(e)[:300]}", flush=True)
    return there


def closed(names, place, rounds):
    "Answers a second to 1, 8 and 64 clients, the contenders in turn; seconds to the first answer, and megabytes then and after the load."
    found, starts = {(name, clients): [] for name in names for clients in CLIENTS}, {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            with running(name, place) as server:
                for clients in CLIENTS: found[name, clients].append(server.asked(clients=clients, warm=WARM))
                starts[name].append((server.start, server.memory, memory(server.process)))
    middle = lambda name, clients, what: median(x[what] for x in found[name, clients])
    loads, begins = [], []
    for clients in CLIENTS:
        of = lambda name, clients=clients: middle(name, clients, "a second") if name in names else float("nan")
        loads += [{"server": name, "clients": clients, "answers a second": of(name), "p50, ms": middle(name, clients, "p50 ms"), "p99, ms": middle(name, clients, "p99 ms"),
                   "refused": middle(name, clients, "failed"), "processor, ms an answer": middle(name, clients, "processor")*1e3,
                   "of FastAPI + ONNX": of(name)/of("FastAPI + ONNX"), "ours, times this": of(OURS)/of(name)} for name in names]
    for name in names:
        seconds, first, last = (median(x) for x in zip(*starts[name]))
        begins.append({"server": name, "first answer, seconds": seconds, "memory, MB": first, "memory after the load, MB": last})
    for row in begins: row |= {"seconds, of ours": row["first answer, seconds"]/begins[0]["first answer, seconds"], "memory, of ours": row["memory, MB"]/begins[0]["memory, MB"]}
    return loads, begins


def sustainable(server):
    "The highest rate at which 99 % are answered in time: up a ladder of steps of a fifth, from four tenths of what 64 clients get, then down."
    rate, best = .4*server.asked(clients=64, warm=WARM)["a second"], 0.
    while True:
        got = server.asked(rate=rate, seed=1)
        good = got["within"][str(WITHIN)] >= .99*got["offered a second"]
        if good: best, rate = rate, rate*1.2
        elif best: return best
        elif rate < 20: return rate
        else: rate /= 1.5


def goodput(names, place):
    "What is answered in time at 1, 2 and 3 times the sustainable load, and whether it recovers."
    rows = []
    for name in names:
        with running(name, place) as server:
            calm = server.asked(clients=1, warm=WARM)
            rate = sustainable(server)
            for times in (1, 2, 3):
                got = server.asked(rate=times*rate, seed=2, lasts=2*LASTS)
                good = got["within"][str(WITHIN)]
                rows.append({"server": name, "times": times, "offered a second": got["offered a second"], f"in time ({WITHIN*1000:.0f} ms) a second": good,
                             "of the sustainable": good/rate, "answered a second": got["answered a second"], "refused a second": got["refused a second"],
                             "p50, ms": got.get("p50 ms"), "p99, ms": got.get("p99 ms"), "p99 of one client alone, ms": calm["p99 ms"]})
                after = server.asked(rate=rate/2, seed=3)
                rows[-1]["straight afterwards, at half the sustainable, in time"] = after["within"][str(WITHIN)]/after["offered a second"]
    return rows


def main():
    told = argparse.ArgumentParser()
    told.add_argument("--all", action="store_true")
    told.add_argument("--only", nargs="+", choices=list(SERVERS))
    told.add_argument("--parts", nargs="+", default=["closed", "log", "goodput"], choices=["closed", "log", "goodput"])
    told.add_argument("--rounds", type=int, default=3)
    told = told.parse_args()
    names = told.only or (ALL if told.all else USUAL)
    def keep(name, rows, packages):
        if told.only: print(name, *(json.dumps(row) for row in rows), sep="\n", flush=True)
        else: store(f"{name}_all" if told.all else name, rows, packages)
    (ROOT / ".mlscale").mkdir(exist_ok=True)
    place = Path(os.environ.get("BENCH_PLACE") or tempfile.mkdtemp(dir=ROOT / ".mlscale"))   # on the disk of the project, not in memory
    try:
        if not (place / "rows.json").exists(): subprocess.run([sys.executable, __file__, "prepare", place], check=True)
        if told.all: names = able(names, place)
        if "closed" in told.parts:
            loads, starts = closed(names, place, told.rounds)
            keep("serving", loads, PACKAGES)
            keep("serving_start", starts, PACKAGES)
        if "log" in told.parts:
            kept = ("server", "clients", "answers a second", "p50, ms", "p99, ms", "processor, ms an answer")
            keep("serving_log", [{key: row[key] for key in kept} for row in closed(tuple(WAYS), place, told.rounds)[0]], PACKAGES)
        if "goodput" in told.parts: keep("serving_goodput", goodput(names, place), PACKAGES)
    finally:
        if not os.environ.get("BENCH_PLACE"): shutil.rmtree(place)


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]: prepare(Path(sys.argv[2]))
    else: main()
