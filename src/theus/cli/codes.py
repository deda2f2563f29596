"""The exit codes of the command line."""

OK = 0  #: done
FAILED = 1  #: the run failed
WRONG = 2  #: the command or a definition is wrong; nothing has run
INTERRUPTED = 130  #: by Ctrl-C, as shells have it
ENDED = 143  #: by SIGTERM, as shells have it
