"""Label alerts in the browser, the most useful first, into a CSV that train, predict and report read as labels.

python -m alerce_early.label INPUT ... --model MODEL --out labels.csv
python -m alerce_early.label TABLE --packets INPUT ... --out labels.csv

Opens a page whose keys 1 to 9 label; u undoes. Each label is on disk before the next but one. Runs until Ctrl-C; the
same command continues, and shows no labelled alert again.
"""

import argparse
import logging
import shlex
import threading
from pathlib import Path

from alerce_early.errors import InputError, exit_on_input_error, require_extra
from alerce_early.files import VERSION
from alerce_early.training import signals

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _parse() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m alerce_early.label", description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--version", action="version", version=f"alerce-early {VERSION}")
    add("input", nargs="+", metavar="INPUT", help="what predict takes; with --packets, a table that it wrote")
    add("--model", nargs="+", metavar="MODEL", help="a run folder, a checkpoint or a bundled network; of several, the "
        "queue is where they disagree")  # fmt: skip
    add("--packets", nargs="+", metavar="INPUT", help="the alerts of the predictions table that INPUT is")
    add("--out", type=Path, required=True, metavar="CSV", help="where labels are appended; others may share it")
    add("--who", metavar="NAME", help="whose labels these are (default: the login name)")
    add("--queue", metavar="NAME", help="which alerts come first: uncertain (default), margin, disagree, unlike, "
        "diverse, random, or probable:CLASS")  # fmt: skip
    add("--random", type=float, default=0.2, metavar="SHARE", help="how much of a session is drawn at random, which "
        "an unbiased purity needs (%(default)s)")  # fmt: skip
    add("--host", default=LOOPBACK[0], help="the address to listen at (%(default)s: this machine alone)")
    add("--port", type=int, default=0, help="the port to listen at (default: a free one)")
    add("--no-browser", action="store_true", help="print the page's address without opening it")
    given = parser.parse_intermixed_args()  # options may stand anywhere
    if bool(given.model) == bool(given.packets):
        raise InputError("INPUT: alerts need --model, a predictions table needs --packets. Give one of the two.")
    if given.packets and len(given.input) > 1:
        raise InputError(f"{given.input[1]}: a second predictions table. Give one.")
    if not 0 <= given.random <= 1:
        raise InputError(f"--random {given.random}: not a share. Give a number from 0 to 1.")
    return given


@exit_on_input_error
@signals.listen()
def main() -> None:
    given = _parse()
    logging.getLogger(__package__).setLevel(logging.ERROR)
    with require_extra("label", "label"):
        from alerce_early.labelling import server
    from alerce_early.labelling.session import open_session  # imports torch, so --help does without

    listening, keys = server.listen(given.host, given.port), server.Keys()
    session = open_session(
        given.input, given.model or (), given.packets or (), given.out, given.who, given.queue, given.random
    )
    if given.host not in LOOPBACK:
        print(
            f"--host {given.host}: anyone who can reach this machine and has the address below can view these "
            f"alerts and label as {session.labels.who}; the connection is not encrypted"
        )
    left = session.progress()["left"]
    print(f"{len(session.keys):,} alerts, {left:,} to label: {server.address_of(listening, keys.token)}", flush=True)
    if not given.no_browser:
        import webbrowser

        address = server.address_of(listening, keys.once)  # other users of the machine see command lines
        threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
    with signals.deferred():
        server.serve(session, listening, keys, given.host)
    print(session.labels.summarise())
    places = given.packets or given.input
    if (data := session.data) and len(places) == 1:
        start = [f"init_from={given.model[0]}"] if given.model else []
        options = [*start, f"data={data}", f"data.path={places[0]}", f"data.labels={given.out}"]
        print(f"train with: {shlex.join(['alerce-early', 'train', *options])}")


if __name__ == "__main__":
    main()
