"""Lists and numbers in sentences."""

from nnunet_assft.runtime.text import count, named, reason, some


def test_a_few_are_named_and_the_rest_is_counted():
    assert some([]) == ""
    assert some("abcde") == "a, b, c, d, e"
    assert some("abcdefg") == "a, b, c, d, e and 2 more"
    assert some([1, 2, 3], n=1) == "1 and 2 more"


def test_what_they_are():
    assert named("case", []) == ""
    assert named("seed", [1]) == "seed 1"
    assert named("case", iter("abcdefg")) == "cases a, b, c, d, e and 2 more"
    assert (count(1, "seed"), count(0, "seed")) == ("1 seed", "0 seeds")


def test_the_reason_of_a_library_is_its_last_and_without_its_own_places():
    chain = """Exception thrown in SimpleITK ImageFileReader_Execute: /build/itkNrrdImageIO.cxx:410:
itk::ERROR: NrrdImageIO(0x55a4): ReadImageInformation: Error reading /data/a.nrrd:
[nrrd] nrrdLoad: trouble reading "/data/a.nrrd"
[nrrd] _nrrdReadNrrdParse_encoding: couldn't parse encoding "zip"
"""
    assert reason(RuntimeError(chain)) == 'couldn\'t parse encoding "zip"'
    assert reason(KeyError("settings")) == "'settings' is missing"
    assert reason(OSError(2, "No such file or directory")) == "No such file or directory"
    assert reason(EOFError()) == "EOFError"
    assert reason(MemoryError()) == "there is not enough memory for it"
    meta = "MetaImage cannot be read: File cannot be read: /data/a.mha for reading. Reason: No such file or directory"
    assert reason(RuntimeError(meta)) == "MetaImage cannot be read: ITK cannot read it, and gives no reason"
