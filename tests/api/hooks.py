"""What the fuzzer has to know of the server besides its description: tokens, and that streams do not end."""

import base64
import hashlib
import hmac
import json
import os
import time

import schemathesis

SECRET = os.environ["FUZZ_SECRET"].encode()

# A stream ends with its token. One second at most, and no leeway (see scripts/fuzz-api), so that its answer is
# read to its end and checked like any other.
STREAM_SECONDS = 1
SECONDS = 3600

# Issued in the future, so that revoking its user, which the fuzzer does sooner or later, does not concern it.
CLAIMS = {"sub": "2", "iat": 4_000_000_000, "notify": {"subscribe": ["*"], "publish": ["*"], "admin": True}}


def token(seconds):
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = CLAIMS | {"exp": int(time.time()) + seconds}
    signed = b".".join(part(json.dumps(each).encode()) for each in ({"alg": "HS256"}, claims))
    return (signed + b"." + part(hmac.digest(SECRET, signed, hashlib.sha256))).decode()


def streams(operation):
    answers = operation.definition.raw["responses"].get("200", {})
    return "text/event-stream" in answers.get("content", {})


@schemathesis.auth(refresh_interval=None, retry_on=[])
class Token:
    def get(self, case, context):
        return token(STREAM_SECONDS if streams(case.operation) else SECONDS)

    def set(self, case, data, context):
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}


@schemathesis.hook
def before_call(context, case, kwargs):
    path = case.operation.path
    if isinstance(case.query, dict):
        shorten(path, case.query)
    subject = (case.path_parameters or {}).get("subject")
    # Every other subject is one that the server listens on, so that payloads are read, too.
    if isinstance(subject, str) and len(subject) % 2:
        case.path_parameters["subject"] = f"fechatter.realtime.{subject}"
    if path.endswith("/send") and isinstance(case.body, dict) and case.body.get("durable") is True:
        name_a_user(case.body)


def shorten(path, query):
    """What is valid is not waited for as long as it could be; what is not is left as it is."""
    longest, short = (60, 0.1) if path == "/events/poll" else (10_000, 50)
    if path == "/events/poll" and query.get("after"):
        query.setdefault("wait", short)
    wait = query.get("wait")
    if isinstance(wait, (int, float)) and not isinstance(wait, bool) and short < wait <= longest:
        query["wait"] = short


def name_a_user(message):
    """A message that waits for who is away has to name a user, which its schema can't say."""
    message.pop("channel", None)
    message["target"] = {"user_id": 2}
    if isinstance(message.get("metadata"), dict):
        message["metadata"].pop("priority", None)
