"""Which edgeres runs here, as a hash: workers of another one would give other answers."""

from __future__ import annotations

from edgeres.system.stage_code import all_source_files, hash_of

CODE_SHA256 = hash_of(all_source_files())
"""SHA-256 over the package's Python files, taken when this process began to use them: what is
changed on the disk later is not what it runs."""
