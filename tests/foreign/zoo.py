"""All specimens: importing this fills the register."""

from tests.foreign import provable_keras, provable_modules, refused_keras, refused_modules
from tests.foreign.specimens import ZOO

ROOMS = (provable_modules, provable_keras, refused_modules, refused_keras)
PROVABLE = [specimen for specimen in ZOO.values() if specimen.is_provable]
REFUSED = [specimen for specimen in ZOO.values() if not specimen.is_provable]
