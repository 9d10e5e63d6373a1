"""An MQTT client of the field (paho-mqtt) with a device's credentials, in both versions of the protocol.

usage: mqtt_clients.py TRANSPORT HOST PORT DEVICE SECRET OTHER

TRANSPORT is tcp or websockets.

Prints one line a check and ends with status 1 at the first that fails. What must be refused is refused by the code
that the version has for it.
"""

import sys
import threading

import paho.mqtt.client as mqtt

TRANSPORT, HOST, PORT, DEVICE, SECRET, OTHER = sys.argv[1:7]
PORT = int(PORT)
WAIT_S = 20


class Client:
    """A connection that remembers what it was answered."""

    def __init__(self, version, client_id=DEVICE, user=DEVICE, secret=SECRET, will=None):
        self.version = version
        self.answers = {"connect": None, "subscribe": None, "publish": None, "message": None, "disconnect": None}
        self.happened = {name: threading.Event() for name in self.answers}
        options = {} if version == mqtt.MQTTv5 else {"clean_session": True}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, transport=TRANSPORT, **options
        )
        if TRANSPORT == "websockets":
            self.client.ws_set_options(path="/mqtt")
        self.client.username_pw_set(user, secret)
        if will:
            self.client.will_set(will, b"x", qos=1)
        self.client.on_connect = lambda c, u, flags, code, p: self.note("connect", code.value)
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.note("subscribe", [code.value for code in codes])
        self.client.on_publish = lambda c, u, mid, code, p: self.note("publish", code.value)
        self.client.on_message = lambda c, u, message: self.note("message", message.payload)
        self.client.on_disconnect = lambda c, u, flags, code, p: self.note("disconnect", code.value)
        self.client.connect(HOST, PORT, keepalive=30)
        self.client.loop_start()

    def note(self, what, answer):
        self.answers[what] = answer
        self.happened[what].set()

    def wait(self, what):
        if not self.happened[what].wait(WAIT_S):
            raise SystemExit(f"no answer: {what}")
        return self.answers[what]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def check(what, got, expected):
    print(("ok  " if got == expected else "FAIL"), what, got)
    if got != expected:
        raise SystemExit(f"{what}: got {got}, expected {expected}")


def connect(version, expected, what, **arguments):
    client = Client(version, **arguments)
    check(f"{what}: CONNACK", client.wait("connect"), expected)
    if expected != 0:
        client.close()
    return client


for version, name in ((mqtt.MQTTv5, "5"), (mqtt.MQTTv311, "3.1.1")):
    five = version == mqtt.MQTTv5

    # What it may: its own topics. A frame that nobody can read is answered on d/<device>.
    own = connect(version, 0, f"{name} own id")
    own.client.subscribe(f"d/{DEVICE}", qos=1)
    check(f"{name} subscribe d/self", own.wait("subscribe"), [1])
    own.client.publish(f"u/{DEVICE}", b"\xff\xff\xff", qos=1)
    check(f"{name} publish u/self", own.wait("publish"), 0)
    check(f"{name} answer on d/self", len(own.wait("message")) > 0, True)
    own.close()

    # What it may not: filters.
    for filter in ("#", "d/+", "+/#", f"d/{OTHER}", "$share/x/d/+", f"$share/x/d/{OTHER}", "u/+", f"p/{OTHER}"):
        client = connect(version, 0, f"{name} for {filter}", client_id=f"{DEVICE}-s")
        client.client.subscribe(filter, qos=1)
        check(f"{name} subscribe {filter}", client.wait("subscribe"), [0x87 if five else 0x80])
        client.close()

    # What it may not: topics.
    for topic in (f"d/{DEVICE}", f"d/{OTHER}", "g/1", "t/en", f"u/{OTHER}", f"p/{OTHER}", "other/topic"):
        client = connect(version, 0, f"{name} for {topic}", client_id=f"{DEVICE}-p")
        client.client.publish(topic, b"x", qos=1)
        if five:
            check(f"5 publish {topic}", client.wait("publish"), 0x87)
        else:
            client.wait("disconnect")
            check(f"3.1.1 publish {topic} closes", client.happened["publish"].is_set(), False)
        client.close()

    # What it may not: a will on another's topic, another's client id, a wrong secret. The library shows CONNACK 5 of
    # 3.1.1, "not authorized", as 0x87, and 2, "identifier rejected", as 0x85.
    connect(version, 0x87, f"{name} will on u/other", client_id=f"{DEVICE}-w", will=f"u/{OTHER}")
    connect(version, 0x85, f"{name} another's client id", client_id=OTHER)
    connect(version, 0x86 if five else 0x87, f"{name} wrong secret", secret="wrong")
