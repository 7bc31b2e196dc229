"""What a server of the fleet serves: it notes the id that a POST carries, and answers with it, its process id and VERSION."""

import os

VERSION = 0
ids = os.open(os.environ["FLEET_IDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    name = b""
    if scope["method"] == "POST":
        is_whole = False
        while not is_whole:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            name += event.get("body", b"")
            is_whole = not event.get("more_body")
        os.write(ids, name + b"\n")
    body = b"%s %d %d" % (name, os.getpid(), VERSION)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
