"""The command line of dsort and the local runner, which drives ranks as processes of this machine."""
