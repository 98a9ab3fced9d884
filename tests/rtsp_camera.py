"""A camera that speaks just enough RTSP (RFC 2326) and RTP (RFC 6184) over one connection."""

import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from fractions import Fraction

import numpy as np

__all__ = ["camera", "coded"]

_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\na=control:*\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    "a=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
)
_MTU = 1200


def coded(pixels, fps=10):
    """NAL units of every frame, without B-frames; parameter sets come with each keyframe."""
    import av

    context = av.CodecContext.create("libx264", "w")
    context.height, context.width, context.pix_fmt = *pixels.shape[1:3], "yuv420p"
    context.time_base = Fraction(1, fps)
    context.thread_count = 1
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
    frames = []
    for index, picture in enumerate(pixels):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, fps)
        frames += [bytes(packet) for packet in context.encode(frame)]
    frames += [bytes(packet) for packet in context.encode(None)]
    return [
        [n for n in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if n] for data in frames
    ]


def _payloads(nal):
    """A NAL unit as it is, or in fragments (FU-A)."""
    if len(nal) <= _MTU:
        return [nal]
    head, rest, pieces = nal[0], nal[1:], []
    for start in range(0, len(rest), _MTU):
        piece = rest[start : start + _MTU]
        flags = (0x80 if start == 0 else 0) | (0x40 if start + _MTU >= len(rest) else 0)
        pieces.append(bytes([(head & 0xE0) | 28, flags | (head & 0x1F)]) + piece)
    return pieces


def _play(caller, frames, fps, lasting_s):
    sequence = 0
    for index, nals in enumerate(frames):
        payloads = [payload for nal in nals for payload in _payloads(nal)]
        for place, payload in enumerate(payloads):
            marker = 0x80 if place == len(payloads) - 1 else 0
            ticks = 90_000 * index // fps
            packet = struct.pack(">BBHII", 0x80, 96 | marker, sequence % 65536, ticks, 7) + payload
            caller.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
            sequence += 1
        time.sleep(lasting_s / len(frames))


def _answer(caller, frames, fps, lasting_s, seen):
    asked = b""
    while data := caller.recv(4096):
        asked += data
        while b"\r\n\r\n" in asked:
            request, asked = asked.split(b"\r\n\r\n", 1)
            lines = request.decode().split("\r\n")
            verb = lines[0].split()[0]
            seen.append(lines[0])
            number = next(line for line in lines if line.lower().startswith("cseq"))
            extra, body = "Session: 1\r\n", ""
            if verb == "OPTIONS":
                extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif verb == "DESCRIBE":
                extra, body = "Content-Type: application/sdp\r\n", _SDP
            elif verb == "SETUP":
                extra += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            caller.sendall(f"RTSP/1.0 200 OK\r\n{number}\r\n{extra}{length}\r\n{body}".encode())
            if verb == "PLAY":
                _play(caller, frames, fps, lasting_s)
                return


@contextmanager
def camera(frames, *, fps=10, lasting_s=1.0, calls=1):
    """The address of a camera that plays to so many callers, one after another, and what they
    asked it.
    """
    server, seen = socket.create_server(("127.0.0.1", 0)), []
    server.settimeout(20)

    def serve():
        with server, suppress(OSError):
            for _ in range(calls):
                caller, _ = server.accept()
                with caller, suppress(OSError):
                    _answer(caller, frames, fps, lasting_s, seen)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"rtsp://me:secret@127.0.0.1:{server.getsockname()[1]}/one", seen
    thread.join(timeout=25)
    assert not thread.is_alive()
