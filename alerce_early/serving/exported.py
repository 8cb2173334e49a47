"""Exported files at work: onnxruntime on what `export` wrote, in a process that needs neither torch nor the run."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.errors import InputError, one_line, require_extra
from alerce_early.machine import threads
from alerce_early.serving.facts import Facts, Runtime

END = ".onnx"  # of a file's name


def seal(content: bytes) -> bytes:
    """Return what ends a file: its metadata `sha256`, in ONNX's encoding, of all the bytes before it."""
    return b"r\x4a\n\x06sha256\x12\x40" + hashlib.sha256(content).hexdigest().encode()


def open_exported(file: Path) -> tuple[Facts, Runtime]:
    """Return what an exported ONNX file tells, and onnxruntime on it; raises InputError for any other file."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    return open_content(content, str(file))


def open_content(content: bytes, name: str) -> tuple[Facts, Runtime]:
    """Return the same of the content of such a file; name: what it is called, for messages."""
    with require_extra("exported files", "export"):
        import onnxruntime  # noqa: F401  whose lack is no damage
    try:
        session = session_of(content)
        facts = Facts.from_texts(session.get_modelmeta().custom_metadata_map)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:  # a damaged file may raise nearly anything
        raise InputError(f"{name} is no ONNX file, or is damaged: {one_line(error)}.") from None
    if not content.endswith(seal(content[: -len(seal(b""))])):  # onnxruntime takes any weights
        raise InputError(f"{name} is damaged, or was changed: its sha256 is not that of its bytes. Export it again.")

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        inputs = {"stamps": stamps} | ({"metadata": metadata} if facts.spec.features else {})
        try:
            found = session.run(["table"], inputs)[0]
        except Exception as error:  # onnxruntime has an exception for everything
            raise InputError(f"{name}: onnxruntime cannot run it: {one_line(error)}.") from None
        if found.shape != (len(stamps), len(facts.columns)) or found.dtype != np.float32:
            raise InputError(f"{name}: its table is {found.dtype} {found.shape}, not {len(facts.columns)} columns.")
        return dict(zip(facts.columns, found.T, strict=True))

    # what it tells and what it does may differ, which one row shows
    run(np.full((1, *facts.spec.raw_shape), np.nan, np.float32), np.full((1, len(facts.spec.features)), np.nan, "f4"))
    return facts, run


def session_of(content: bytes) -> Any:
    """onnxruntime's `InferenceSession` on the content of an ONNX file, with as many threads as this process may use."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # what is classified is nobody else's business
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    # a thread that waits would spin on the core that decodes the next rows
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors come as exceptions too
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
