"""Label alerts in the browser, most useful first, and write a CSV of labels for train, predict and report.

python -m alerce_early.label INPUT ... --model MODEL --out labels.csv
python -m alerce_early.label TABLE --packets INPUT ... --out labels.csv

Opens a page in the browser: keys 1 to 9 set the label, u undoes the last one. Each label is written to disk at once.
Ctrl-C stops the command. The same command continues, without the alerts that you have labelled.
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
    """Parse and check the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m alerce_early.label", description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--version", action="version", version=f"alerce-early {VERSION}")
    add("input", nargs="+", metavar="INPUT", help="alerts, as for predict; with --packets, a table that predict wrote")
    add("--model", nargs="+", metavar="MODEL", help="a run folder, a checkpoint or a bundled network; with several, "
        "alerts on which they disagree come first")  # fmt: skip
    add("--packets", nargs="+", metavar="INPUT", help="files with the alerts of the predictions table")
    add("--out", type=Path, required=True, metavar="CSV", help="file of labels; several people can share it")
    add("--who", metavar="NAME", help="your name (default: the login name)")
    add("--queue", metavar="NAME", help="order of the alerts: uncertain (default), margin, disagree, unlike, "
        "diverse, random, or probable:CLASS")  # fmt: skip
    add("--random", type=float, default=0.2, metavar="SHARE", help="share of alerts drawn at random, for an "
        "unbiased estimate of purity (default: %(default)s)")  # fmt: skip
    add("--host", default=LOOPBACK[0], help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=int, default=0, help="port to listen on (default: a free port)")
    add("--no-browser", action="store_true", help="print the address of the page without opening it")
    given = parser.parse_intermixed_args()  # options may follow INPUT
    if bool(given.model) == bool(given.packets):
        raise InputError(
            "--model, --packets: expected one. Give --model for alerts, --packets for a predictions table."
        )
    if given.packets and len(given.input) > 1:
        raise InputError(f"{given.input[1]}: a second predictions table. Give only one.")
    if not 0 <= given.random <= 1:
        raise InputError(f"--random {given.random}: not a share. Give a number from 0 to 1.")
    return given


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Run the command."""
    given = _parse()
    logging.getLogger(__package__).setLevel(logging.ERROR)
    with require_extra("label", "label"):
        from alerce_early.labelling import server
    from alerce_early.labelling.session import open_session  # imports torch, which --help does not need

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

        address = server.address_of(listening, keys.once)  # valid once: other users can see command lines
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
