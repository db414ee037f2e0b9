"""The ROS 2 half of CLKD Drive: nodes, conversions, launch; the only code that knows messages.

The path is extended so that a source tree does not hide the generated ``clkd_ros.msg``.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
