# Connects and says nothing, or half of what it should: how does that end, and after how long?
# silent.py ADDRESS SILENT: the first is a host's, behind the second nobody speaks either.
import concurrent.futures, json, socket, ssl, sys, time


def connect(address):
    return socket.create_connection((address, 443), timeout=60)


def nothing(address, silent):
    return connect(silent)


def half_a_hello(address, _):
    c = connect(address)
    c.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    return c


def half_a_plain_head(address, _):
    c = connect(address)
    c.sendall(b"GET / HTTP/1.1\r\nHost: api.ope")
    return c


def half_a_head(address, _):
    c = ssl.create_default_context().wrap_socket(connect(address), server_hostname="api.openai.com")
    c.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nAuthoriz")
    return c


def wait(begin):
    since = time.monotonic()
    connection = begin(*sys.argv[1:])
    try:
        got = connection.recv(1024)
        how = got.split(b"\r\n")[0].decode() or "closed"
    except ConnectionResetError:
        how = "closed"
    except TimeoutError:
        how = "still open"
    return begin.__name__, {"how": how, "seconds": time.monotonic() - since}


ways = [nothing, half_a_hello, half_a_plain_head, half_a_head]
with concurrent.futures.ThreadPoolExecutor(len(ways)) as pool:
    print(json.dumps(dict(pool.map(wait, ways))))
