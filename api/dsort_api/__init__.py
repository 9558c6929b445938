"""The contract of dsort: the DSortJob, the messages between a rank and whoever drives it, the manifest, reasons and exit codes.

Import what you need from its module: this package stays empty so that a start pays only for what it uses.
"""
