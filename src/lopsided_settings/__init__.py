"""What can be set: the fields of the configuration types, each declared once.

A field's declaration holds its type, its default, its help, its valid range, and how the command line writes it. The
library makes its configuration types of these fields and checks them; the command line makes its options of them. The
package stands next to `lopsided`, which imports torch, so that help is instant: nothing heavy is imported here.
"""

from lopsided_settings.field import Setting, setting, settings_of

__all__ = ["Setting", "setting", "settings_of"]
