"""The adapters that Vulkan offers, asked of its loader itself: onnxruntime does not say which one it takes.

A driver that computes on the CPU (SwiftShader, llvmpipe) says so in its properties, whatever its name.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from functools import cache

__all__ = ["Adapter", "adapters"]

_SOFTWARE = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU
#: The properties' beginning: versions of the interface and driver, ids of vendor and device, kind, name.
_PROPERTIES = struct.Struct("=IIIIi256s")
_PROPERTIES_BYTES = 4096  # more than any version's whole structure
_SUCCESS, _INCOMPLETE = 0, 5


@dataclass(frozen=True)
class Adapter:
    """A physical device of Vulkan: its name, and whether it is a program on the CPU."""

    name: str
    software: bool


class _InstanceInfo(ctypes.Structure):
    """``VkInstanceCreateInfo`` without an application, layers or extensions."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    )


@cache
def adapters() -> tuple[Adapter, ...]:
    """All adapters, in the loader's order; none if there is no loader or no driver. Asked once a process."""
    try:
        vulkan = ctypes.CDLL("libvulkan.so.1")
    except OSError:
        return ()
    info, instance = _InstanceInfo(type=1), ctypes.c_void_p()  # VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO
    if vulkan.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)) != _SUCCESS:
        return ()
    try:
        count = ctypes.c_uint32(64)
        devices = (ctypes.c_void_p * count.value)()
        if vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices) not in (_SUCCESS, _INCOMPLETE):
            return ()
        return tuple(_adapter(vulkan, device) for device in devices[: count.value])
    finally:
        vulkan.vkDestroyInstance(instance, None)


def _adapter(vulkan: ctypes.CDLL, device: int | None) -> Adapter:
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), properties)
    *_, kind, name = _PROPERTIES.unpack_from(properties)
    return Adapter(name.split(b"\0")[0].decode("utf-8", "replace"), kind == _SOFTWARE)
