"""Amazon's own client, asked line by line. A line of the input is a call as JSON: the service, the method, what it is
given, and who asks where. A line of the output is what it came to: an answer, a refusal, or nothing that was heard.
Bytes travel as base64. Calls are never repeated here: whoever asks sees what the first one came to."""

import base64
import datetime
import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

clients = {}


def client(service, who):
    key = (service, json.dumps(who, sort_keys=True))
    if key not in clients:
        clients[key] = boto3.client(
            service,
            endpoint_url=who["endpoint"],
            region_name=who["region"],
            aws_access_key_id=who["key"],
            aws_secret_access_key=who["secret"],
            aws_session_token=who.get("token"),
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=20,
                read_timeout=who["patience"],
                # What differs from machine to machine is not looked up.
                defaults_mode="legacy",
            ),
        )
    return clients[key]


def plain(value):
    if isinstance(value, StreamingBody):
        return base64.b64encode(value.read()).decode()
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key != "ResponseMetadata"}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


def come_to(call):
    given = call["given"]
    if "BlockData" in given:
        given["BlockData"] = base64.b64decode(given["BlockData"])
    try:
        method = getattr(client(call["service"], call["who"]), call["method"])
        return {"answer": plain(method(**given))}
    except ClientError as error:
        said = error.response
        return {
            "refusal": {
                "code": said["Error"]["Code"],
                "message": said["Error"]["Message"],
                "reason": said.get("Reason", ""),
                "status": said["ResponseMetadata"]["HTTPStatusCode"],
            }
        }
    except BotoCoreError as error:
        return {"lost": str(error)}


for line in sys.stdin:
    print(json.dumps(come_to(json.loads(line))), flush=True)
