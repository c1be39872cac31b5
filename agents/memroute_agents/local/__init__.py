"""The local policy: a softmax over sets of categories that trains and routes on the CPU."""

from memroute_env.errors import MissingDependencyError

try:
    import platformdirs  # noqa: F401  (both are wanted all over the package: named here, once)
    import scipy  # noqa: F401
except ImportError as error:
    raise MissingDependencyError((error.name or "scipy").partition(".")[0], "local") from error
