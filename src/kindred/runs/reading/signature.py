"""Whose configuration it is: a last line that only this user can have written."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

SIGNED = "# signed "


def signed(text: str) -> str:
    """`text` with a last line that only this user can have written: what it names was composed, and has run, here.

    Without a home to keep a key in, `text` as it is.
    """
    key = _key()
    return text if key is None else f"{text}{SIGNED}{_signature(key, text)}\n"


def is_signed(text: str) -> bool:
    """Whether `text` is, to the letter, what this user signed. Then its classes are their own."""
    before, _, signature = text.rpartition(SIGNED)
    key = _key() if before else None
    return key is not None and hmac.compare_digest(_signature(key, before).encode(), signature.strip().encode())


def unsigned(text: str) -> str:
    """`text` without its signature."""
    before, _, _ = text.rpartition(SIGNED)
    return before or text


def _signature(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    """This user's key, made when it is first needed; it leaves this user's home in no file."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state, "kindred", "key")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(new, path)  # of several processes that make one, the first
            finally:
                new.unlink()
        return path.read_bytes()
    except FileExistsError:
        return path.read_bytes()
    except OSError:
        return None
