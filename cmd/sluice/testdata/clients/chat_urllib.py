# One chat completion with urllib, as an agent's own code would ask.
import json, os, sys, urllib.error, urllib.request

request = urllib.request.Request(
    "https://api.openai.com/v1/chat/completions",
    data=json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode(),
    headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"},
)
try:
    with urllib.request.urlopen(request, timeout=20) as answer:
        print(answer.status, json.load(answer)["choices"][0]["message"]["content"])
except urllib.error.HTTPError as error:
    print(error.code, error.headers["Retry-After"], json.load(error)["error"]["code"])
