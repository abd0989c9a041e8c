"""The exceptions that the public interface raises, besides Python's own."""


class ScriptError(Exception):
    """an operation that cannot be done here, or now"""


class SessionEndedError(ScriptError):
    """the session has ended: nothing can be asked of it or sent any more"""


class ResolveError(OSError):
    """a name has no address"""
