# pip install requests
import os
import requests

answer = requests.post(
    "BASE/api/events",
    headers={"X-API-Key": os.environ["HOOKGATE_API_KEY"]},
    json={"type": "user.login", "account_id": "account-1", "payload": {"user": "ada"}},
    timeout=10,
)
answer.raise_for_status()
print(answer.json()["id"])
