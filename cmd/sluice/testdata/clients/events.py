# Reads a stream of events and tells how many came in order and how late the latest was.
import http.client, json, os, sys, time

n, interval = int(sys.argv[1]), sys.argv[2]
connection = http.client.HTTPSConnection("api.openai.com", timeout=30)
connection.request("GET", "/stream?events=%d&interval=%s" % (n, interval), headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]})
answer = connection.getresponse()
expected, late = 0, []
while True:
    line = answer.readline()
    if not line:
        break
    if line.startswith(b"data: {"):
        tick = json.loads(line[6:])
        late.append(time.clock_gettime_ns(time.CLOCK_MONOTONIC) - tick["mono"])
        if tick["n"] != expected:
            sys.exit("event %d came where %d was due" % (tick["n"], expected))
        expected += 1
late.sort()
print(json.dumps({"events": expected, "latest_ms": late[-1] / 1e6, "median_ms": late[len(late) // 2] / 1e6}))
