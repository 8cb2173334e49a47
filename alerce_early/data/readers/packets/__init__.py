"""Read alert packets of ZTF and Rubin from files, archives and messages; `stream` is the entry point."""
