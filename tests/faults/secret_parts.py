"""Components that take secrets, as a data set behind a login does."""

from toy_problem import plane

from accelerator.runtime.callbacks.base import Callback


def guarded(api_key, account, url, fails=False):
    """The plane, for who has the key."""
    if fails:
        raise ValueError(f"{url} refused {account} with {api_key}")
    return plane()


class Telling(Callback):
    """Fails of something that tells a secret."""

    def step_end(self, context):
        raise RuntimeError(f"refused {context.config['data']['api_key']}")
