# Sends a large file as a chat's body with http.client: upload.py FILE
import http.client, os, sys

connection = http.client.HTTPSConnection("api.openai.com", timeout=30)
with open(sys.argv[1], "rb") as body:
    connection.request("POST", "/v1/chat/completions", body, {
        "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json",
        "Content-Length": str(os.path.getsize(sys.argv[1]))})
answer = connection.getresponse()
print("%s\n%d %d" % (answer.read().decode(), answer.status, answer.version))
