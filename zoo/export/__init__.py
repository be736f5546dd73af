"""Ways out: a model as a program for another runtime, that says how it is fed, and was run and compared."""

from zoo.export.export import Exported as Exported
from zoo.export.export import export_model as export_model
from zoo.export.facts import facts_of as facts_of
from zoo.export.formats import Format as Format
from zoo.export.formats import formats as formats
from zoo.export.int8 import accuracy as accuracy
