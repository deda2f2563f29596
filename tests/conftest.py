"""What all tests share: the settings of hypothesis, and that Ctrl-C is heard."""

import os
import signal

from hypothesis import HealthCheck, settings

# No deadline: the machines that run this are shared. CI repeats the same examples: a red run is about the change.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.register_profile("soak", settings.get_profile("here"), max_examples=20_000)
settings.load_profile("soak" if os.environ.get("THEUS_SOAK") else "ci" if os.environ.get("CI") else "here")

# A shell's background job ignores Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
