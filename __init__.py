"""trimtab: an OpenAI-compatible gateway that makes every request to a language model smaller, cheaper or unnecessary.

This file is the package's face and holds the version only; each name lives in the room that defines it
(`trimtab.protocol.errors`, `trimtab.gateway.app`, ...), and there is one import path for each.
"""

__version__ = "0.1.0"
