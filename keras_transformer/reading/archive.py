"""Reads uncompressed zip archives, such as `.keras` and `.npz`, as Python's zipfile writes them.

The members must fill the file from its start to the list of members, one after another, without
compression, so that no member is larger than the file, and none is read that the list hides.
"""

import os
import re
import struct
import zlib
from typing import Any, BinaryIO, NamedTuple

from keras_transformer.reading.files import DamagedFile

_MOST_MEMBERS = 100_000
_NAME = re.compile(rb"[A-Za-z0-9_:]+(\.[a-z0-9]+){1,3}")
_NAME_OF_OTHERS = re.compile(rb"[A-Za-z0-9_./-]+")
# Signature, versions, flags, compression, date, CRC, sizes, lengths of name, extra field and
# comment, disk, attributes, and the offset of the member's own header.
_LISTED = struct.Struct("<4s4xHH4xIIIHHHH6xI")
_HEADER = struct.Struct("<4s2xHH16xHH")
_END = struct.Struct("<4s4xHHIIH")
_END_OF_LARGE = 56 + 20  # two more records before the end, where the list is beyond 2 GiB
_IN_EXTRA_FIELD = 2**32 - 1
_UTF_8_NAME = 0x800
_SIZES_AFTERWARDS = 0x8  # a copy of checksum and sizes follows the content


class Member(NamedTuple):
    """Where a member of an archive is.

    Attributes:
        offset: Where its content begins.
        size: The bytes of its content.
        crc: The checksum of its content.
    """

    offset: int
    size: int
    crc: int


class _Listed(NamedTuple):
    name: bytes
    header: int
    size: int
    crc: int


def members_of(file: BinaryIO, *, of_other_programs: bool = False) -> dict[str, Member]:
    """Reads the list of an archive's members, and checks it against the file.

    Args:
        file: The archive.
        of_other_programs: Whether members may have other names, and gaps between them, which
            PyTorch leaves.

    Raises:
        DamagedFile: If the file is not an archive as described above.
    """
    members, position = {}, 0
    listed, start_of_list = _list_of(file, of_other_programs)
    for name, header, size, crc in listed:
        if header < position or (header > position and not of_other_programs):
            raise DamagedFile(f"bytes beside the members of the archive, before {_shown(name)}")
        file.seek(header)
        signature, flags, method, name_size, extra_size = _unpack(_HEADER, file.read(_HEADER.size))
        if (signature, method) != (b"PK\x03\x04", 0) or flags & ~_known_flags(of_other_programs):
            raise DamagedFile(f"the member {_shown(name)} without its header")
        if file.read(name_size) != name:
            raise DamagedFile(f"the member {_shown(name)} under another name in its header")
        offset = header + _HEADER.size + name_size + extra_size
        position = offset + size
        members[name.decode("ascii")] = Member(offset, size, crc)
    if position > start_of_list or (position < start_of_list and not of_other_programs):
        raise DamagedFile("bytes beside the members of the archive")
    return members


def read_member(file: BinaryIO, member: Member) -> bytes:
    """Reads the content of a member, and checks its checksum.

    Raises:
        DamagedFile: If the content has changed since it was written.
    """
    file.seek(member.offset)
    content = file.read(member.size)
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise DamagedFile("content that does not match its checksum in the archive")
    return content


def _known_flags(of_other_programs: bool) -> int:
    return _UTF_8_NAME | (_SIZES_AFTERWARDS if of_other_programs else 0)


def _list_of(file: BinaryIO, of_other_programs: bool) -> tuple[list[_Listed], int]:
    """Returns the members in the archive's list, by place, and where the list begins."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _END.size))
    signature, _, count, size, _, comment_size = _unpack(_END, file.read(_END.size))
    if (signature, comment_size) != (b"PK\x05\x06", 0) or count > _MOST_MEMBERS:
        raise DamagedFile("a file that does not end as an uncompressed zip archive")
    end -= _END.size
    file.seek(max(0, end - _END_OF_LARGE))
    if file.read(4) == b"PK\x06\x06":
        end -= _END_OF_LARGE
    if size > end or size > count * 400:
        raise DamagedFile(f"{size:,} bytes for a list of {count} members")
    file.seek(end - size)
    data, position, listed, names = file.read(size), 0, [], set()
    for _ in range(count):
        member, position = _listed(data, position, end, of_other_programs)
        if member.name in names:
            raise DamagedFile(f"two members of the name {_shown(member.name)}")
        names.add(member.name)
        listed.append(member)
    if position != size:
        raise DamagedFile("bytes after the list of members")
    return sorted(listed, key=lambda member: member.header), end - size


def _listed(data: bytes, position: int, most: int, of_other_programs: bool) -> tuple[_Listed, int]:
    """Reads the entry of one member in the archive's list; returns it and where it ends."""
    entry = _unpack(_LISTED, data[position : position + _LISTED.size])
    signature, flags, method, crc, packed_size, size, *lengths, header = entry
    name_size, extra_size, comment_size, _ = lengths
    position += _LISTED.size
    name = data[position : position + name_size]
    extra = data[position + name_size : position + name_size + extra_size]
    pattern = _NAME_OF_OTHERS if of_other_programs else _NAME
    if signature != b"PK\x01\x02" or not pattern.fullmatch(name):
        raise DamagedFile(f"a member named {_shown(name)}, which Keras and NumPy do not write")
    if method != 0 or flags & ~_known_flags(of_other_programs) or comment_size:
        raise DamagedFile(f"the member {_shown(name)}, which is compressed or encrypted")
    large = list(struct.iter_unpack("<Q", extra[4:])) if len(extra) in (12, 20, 28) else []
    if packed_size == size == _IN_EXTRA_FIELD and len(large) > 1:
        (size,), (packed_size,) = large.pop(0), large.pop(0)
    if header == _IN_EXTRA_FIELD and large:
        [header] = large.pop(0)
    if packed_size != size or size > most or header > most:
        raise DamagedFile(f"the member {_shown(name)} with {size:,} bytes, outside the file")
    return _Listed(name, header, size, crc), position + name_size + extra_size


def _unpack(pattern: struct.Struct, data: bytes) -> tuple[Any, ...]:
    if len(data) != pattern.size:
        raise DamagedFile("an archive that is cut off")
    return pattern.unpack(data)


def _shown(name: bytes) -> str:
    return repr(name[:80].decode("utf-8", "backslashreplace"))
