# Two streamed chat completions on one connection with http.client.
import http.client, json, os

connection = http.client.HTTPSConnection("api.openai.com", timeout=20)
for _ in range(2):
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]})
    connection.request("POST", "/v1/chat/completions", body, {
        "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"})
    answer = connection.getresponse()
    text, done = "", False
    for line in answer:
        line = line.decode().strip()
        if line == "data: [DONE]":
            done = True
        elif line.startswith("data: "):
            for choice in json.loads(line[6:])["choices"]:
                text += choice["delta"].get("content") or ""
    print(answer.status, done, text)
connection.close()
