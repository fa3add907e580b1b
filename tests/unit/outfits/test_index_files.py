"""Reading published index files: what numpy wrote comes back, what is hostile or broken is refused by name."""

import collections
import contextlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.lib import format as npy

from fashiondpo.errors import DataFileError, ForbiddenPickle
from fashiondpo.outfits import index_files
from fashiondpo.outfits.index_files import as_ids, read_index

ids = st.integers(0, 2**40)
leaves = ids | st.floats(allow_nan=False) | st.text(max_size=5) | st.booleans() | st.none()
contents = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ids | st.text(max_size=5), inner, max_size=4)
)


def with_header(body: bytes, *, shape: tuple[int, ...] = (), type_code: str = "|O") -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": type_code, "fortran_order": False, "shape": shape})
    return stream.getvalue() + body


def saved(content: object, protocol: int = 3) -> bytes:
    """As numpy saves an object array of no dimension."""
    array = np.empty((), dtype=object)
    array[()] = content
    return with_header(pickle.dumps(array, protocol=protocol))


def written(folder: Path, content: bytes) -> Path:
    path = folder / "index.npy"
    path.write_bytes(content)
    return path


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class TestReadIndex:
    @given(content=contents, protocol=st.sampled_from([3, 4, 5]))
    def test_gives_back_what_numpy_saved(self, tmp_path_factory, content, protocol):
        assert read_index(written(tmp_path_factory.getbasetemp(), saved(content, protocol))) == content

    @pytest.mark.parametrize("number", [np.int64(7), np.int32(-7), np.uint8(7), np.float32(0.5), np.bool_(True)])
    def test_numpy_numbers_become_python_numbers(self, tmp_path, number):
        (found,) = read_index(written(tmp_path, saved([number])))
        assert found == number
        assert type(found) in (int, float, bool)

    def test_arrays_inside_become_lists(self, tmp_path):
        content = {"big-endian": np.arange(3, dtype=">i4"), "text": np.array(["a", "bcd"])}
        assert read_index(written(tmp_path, saved(content))) == {"big-endian": [0, 1, 2], "text": ["a", "bcd"]}

    @pytest.mark.parametrize("kind", ["U", "O"])
    def test_a_one_dimensional_array_becomes_a_list(self, tmp_path, kind):
        np.save(tmp_path / "paths.npy", np.array(["a.png", "b/c.png"], dtype=kind), allow_pickle=True)
        assert read_index(tmp_path / "paths.npy") == ["a.png", "b/c.png"]

    @pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
    def test_both_names_of_numpys_array_module_are_known(self, tmp_path, package):
        content = saved([np.int64(5)], protocol=3)
        renamed = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(b"numpy.core", package)
        assert read_index(written(tmp_path, renamed)) == [5]


class TestAHostileFile:
    @pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
    @pytest.mark.parametrize(
        ("payload", "named"),
        [
            (Calls(os.system, "touch {marker}"), f"{os.system.__module__}.system"),
            (Calls(eval, "open({marker!r}, 'w')"), "eval"),
            (Calls(np.load, "{marker}"), "numpy.load"),
            (Calls(getattr, "a", "upper"), "getattr"),
            (collections.OrderedDict(a=1), "collections.OrderedDict"),
            (Path("a"), "pathlib"),
        ],
    )
    def test_is_refused_by_the_name_of_what_it_asks_for(self, tmp_path, payload, named, protocol):
        marker = tmp_path / "ran"
        if isinstance(payload, Calls):
            function, arguments = payload.call
            payload = Calls(function, *(argument.format(marker=str(marker)) for argument in arguments))
        path = written(tmp_path, with_header(pickle.dumps({1: [payload]}, protocol=protocol)))
        with pytest.raises(ForbiddenPickle, match=named) as caught:
            read_index(path)
        assert caught.value.path == path
        assert not marker.exists()

    def test_is_refused_when_the_call_hides_inside_an_array(self, tmp_path):
        with pytest.raises(ForbiddenPickle, match="system"):
            read_index(written(tmp_path, saved([Calls(os.system, "true")])))

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
            (b"\x80\x02\x82\x01.", "EXT1"),
            (b"\x80\x02K\x01Q.", "BINPERSID"),
            (b"(ios\nsystem\n.", r"INST \(os system\)"),
            (b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", "BYTEARRAY8"),
        ],
    )
    def test_is_refused_for_operations_that_index_files_do_not_need(self, tmp_path, body, named):
        with pytest.raises(ForbiddenPickle, match=named):
            read_index(written(tmp_path, with_header(body)))

    @pytest.mark.parametrize("target", ["numpy\ndtype", "numpy\nndarray", "numpy.core.multiarray\nscalar"])
    def test_cannot_change_what_stands_in_for_numpy(self, tmp_path, target):
        body = f"\x80\x02c{target}\n".encode("latin1") + b"}X\x05\x00\x00\x00_callNsb."
        with pytest.raises(DataFileError):
            read_index(written(tmp_path, with_header(body)))
        assert read_index(written(tmp_path, saved([np.int64(5)]))) == [5]


class TestABrokenFile:
    @given(length=st.integers(0, len(saved({1: [2, "three"]})) - 1))
    def test_cut_off_anywhere_is_a_data_file_error(self, tmp_path_factory, length):
        path = written(tmp_path_factory.getbasetemp(), saved({1: [2, "three"]})[:length])
        with pytest.raises(DataFileError):
            read_index(path)

    @given(
        changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=5),
        protocol=st.sampled_from([3, 4]),
    )
    @example(changes=[(128, 0)], protocol=3)
    def test_with_changed_bytes_raises_nothing_else(self, tmp_path_factory, changes, protocol):
        content = bytearray(saved({1: [np.int64(2), "three"], 4: np.arange(3)}, protocol))
        for position, value in changes:
            content[position % len(content)] = value
        with contextlib.suppress(DataFileError):
            read_index(written(tmp_path_factory.getbasetemp(), bytes(content)))

    def test_that_is_missing_names_itself(self, tmp_path):
        with pytest.raises(DataFileError, match=r"absent\.npy: cannot be read"):
            read_index(tmp_path / "absent.npy")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>not found</html>", b"\x93NUMPY\x03\x00"])
    def test_of_another_format_says_so(self, tmp_path, content):
        with pytest.raises(DataFileError, match=r"no \.npy file"):
            read_index(written(tmp_path, content))

    def test_with_bytes_after_its_end_is_refused(self, tmp_path):
        with pytest.raises(DataFileError, match="4 bytes follow"):
            read_index(written(tmp_path, saved({1: 2}) + b"junk"))

    @pytest.mark.parametrize("shape", [(10**15,), (3,)])
    def test_that_announces_more_than_it_has_is_refused_before_memory_is_taken(self, tmp_path, shape):
        with pytest.raises(DataFileError, match="announces"):
            read_index(written(tmp_path, with_header(b"\0" * 8, shape=shape, type_code="<i8")))

    def test_with_an_object_array_of_another_shape_than_announced_is_refused(self, tmp_path):
        body = pickle.dumps(np.array([1, 2], dtype=object))
        with pytest.raises(DataFileError, match=r"shape \(5,\), the content is \(2,\)"):
            read_index(written(tmp_path, with_header(body, shape=(5,))))

    def test_whose_content_is_no_array_is_refused(self, tmp_path):
        with pytest.raises(DataFileError, match="the content is dict"):
            read_index(written(tmp_path, with_header(pickle.dumps({1: 2}))))

    @pytest.mark.parametrize("array", [np.zeros((2, 2)), np.array([[1, None]], dtype=object)])
    def test_of_two_dimensions_is_refused(self, tmp_path, array):
        np.save(tmp_path / "table.npy", array, allow_pickle=True)
        with pytest.raises(DataFileError, match="one-dimensional"):
            read_index(tmp_path / "table.npy")

    @pytest.mark.parametrize("type_code", ["<M8[s]", "<U0", "|V3"])
    def test_of_a_type_that_is_neither_number_nor_text_is_refused(self, tmp_path, type_code):
        with pytest.raises(DataFileError, match="numbers or text"):
            read_index(written(tmp_path, with_header(b"", shape=(2,), type_code=type_code)))

    def test_whose_array_claims_more_values_than_it_carries_is_refused(self, tmp_path):
        body = pickle.dumps(np.arange(3, dtype=np.int8), protocol=3)
        claimed = body.replace(b"K\x01K\x03\x85", b"K\x01K\xff\x85")
        assert claimed != body
        with pytest.raises(DataFileError, match="with other content"):
            read_index(written(tmp_path, with_header(claimed)))

    @pytest.mark.parametrize("body", [b"\x80\x02}r\xff\xff\xff\xff.", b"}p4294967295\n."])
    def test_that_would_make_pickle_allocate_a_huge_table_is_refused(self, tmp_path, body):
        with pytest.raises(DataFileError, match="memo entry"):
            read_index(written(tmp_path, with_header(body)))

    @pytest.mark.parametrize(
        "wrap", [b"\x85", b"\x85q\x01", b"\x85\x94", b"K\x01\x86", b"q\x010h\x01\x85", b"K\x01(K\x01t00\x85"]
    )
    def test_with_a_key_nested_so_deeply_that_hashing_it_would_end_the_process_is_refused(self, tmp_path, wrap):
        with pytest.raises(DataFileError, match="tuples nested more than 100 deep"):
            read_index(written(tmp_path, with_header(b"\x80\x04}(N" + wrap * 500_000 + b"Nu.")))

    def test_larger_than_any_index_is_refused_unread(self, tmp_path, monkeypatch):
        monkeypatch.setattr(index_files, "MAX_INDEX_BYTES", 10)
        with pytest.raises(DataFileError, match="more than an index file may have"):
            read_index(written(tmp_path, saved({})))


class TestIds:
    @pytest.mark.parametrize("found", [[1.5], ["1"], [-1], [2**63], [[1]], [True], [None], {}])
    def test_are_whole_numbers_from_zero(self, found):
        with pytest.raises(DataFileError, match="whole numbers from 0"):
            as_ids(Path("index.npy"), found if found != {} else [found], "uids")

    def test_come_in_rows_of_one_length(self):
        with pytest.raises(DataFileError, match="differ in length"):
            as_ids(Path("index.npy"), [[1, 2], [3]], "outfits", dimensions=2)

    def test_may_be_none_at_all(self):
        assert as_ids(Path("index.npy"), [], "uids").shape == (0,)
