"""What vendors write of optics, instrument and channels, and what of it may identify."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
import zarr

import slidewright
from slidewright.errors import OptionError
from slidewright.metadata import Channel, Metadata
from slidewright.sources import openslide as openslide_source
from slidewright.tiff.slide import TiffSlide
from slidewright.tiff.vendor_metadata import aperio, as_description, ome, own, untold_objective

PIXELS = np.zeros((64, 64, 3), np.uint8)
OME = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Experimenter ID="Experimenter:0" LastName="Doe" UserName="jdoe"/>
<Instrument ID="Instrument:0"><Microscope Manufacturer="Zeiss" Model="Axioscan 7"/>
<Objective ID="Objective:0" NominalMagnification="10"/>
<Objective ID="Objective:1" NominalMagnification="20"/></Instrument>
<Image ID="Image:0" Name="case 12"><AcquisitionDate>2024-05-06T07:08:09</AcquisitionDate>
<ObjectiveSettings ID="Objective:1"/><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="1" SizeY="1"
 SizeZ="3" SizeC="2" SizeT="1" PhysicalSizeZ="500" PhysicalSizeZUnit="nm">
<Channel ID="Channel:0:0" Name="DAPI" Color="65535"/>
<Channel ID="Channel:0:1" Color="-16776961"/></Pixels></Image></OME>"""
PHILIPS = """<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">
<Attribute Name="DICOM_MANUFACTURER" Group="0x0008" Element="0x0070" PMSVR="IString">PHILIPS</Attribute>
<Attribute Name="DICOM_MANUFACTURERS_MODEL_NAME" Group="0x0008" Element="0x1090" PMSVR="IString">UFS</Attribute>
<Attribute Name="DICOM_SOFTWARE_VERSIONS" Group="0x0018" Element="0x1020" PMSVR="IStringArray">&quot;1.6&quot;
 &quot;4.0&quot;</Attribute><Attribute Name="DICOM_PATIENT_NAME">Doe</Attribute>
<Attribute Name="PIM_DP_UFS_BARCODE" Group="0x301D" Element="0x1002" PMSVR="IString">QkFSQ09ERQ==</Attribute>
<Attribute Name="DICOM_DEVICE_SERIAL_NUMBER" Group="0x0018" Element="0x1000" PMSVR="IString">FMT0077</Attribute>
<Array><DataObject ObjectType="PixelDataRepresentation">
<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">&quot;0.00025&quot;
 &quot;0.0005&quot;</Attribute></DataObject><DataObject ObjectType="PixelDataRepresentation">
<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">"0.0005" "0.001"</Attribute>
</DataObject></Array></DataObject>"""


def test_aperio_fields_that_are_not_of_optics_identify():
    found = aperio("Aperio Image Library v12\r\n1x1|AppMag = 20|User = jane|Left = 1.5|Whatever = x|MPP = 0.5")
    assert found.objective_power == 20
    assert (found.scanner_vendor, found.scanner_software) == ("Aperio", "Aperio Image Library v12")
    assert found.identifying == (("User", "jane"), ("Whatever", "x"))


def test_ome_xml_gives_the_objective_that_the_image_names_and_its_channels():
    found = ome(OME, 0)
    assert (found.objective_power, found.scanner_vendor, found.scanner_model) == (20, "Zeiss", "Axioscan 7")
    assert found.channels == (Channel("DAPI", (0, 0, 255)), Channel(None, (255, 0, 0)))
    assert found.z_spacing == pytest.approx(0.5)
    assert dict(found.identifying)["Name"] == "case 12"
    assert dict(found.identifying)["AcquisitionDate"].startswith("2024")
    assert "jdoe" in dict(found.identifying)["Experimenter 0"]


@pytest.mark.parametrize("xml", ["", "<OME", "<OME/>", "<OME><Image/></OME>"])
def test_ome_xml_that_says_nothing_is_nothing(xml):
    assert ome(xml, 0).known == {}


def test_philips_has_its_resolution_in_the_xml(tmp_path):
    with tifffile.TiffWriter(tmp_path / "philips.tiff") as tiff:
        for number, side in enumerate((64, 32)):
            said = {"description": PHILIPS, "software": "Philips DP v1.0"} if not number else {}
            tiff.write(PIXELS[:side, :side], tile=(32, 32), photometric="rgb", metadata=None, **said)
    assert slidewright.info(tmp_path / "philips.tiff").mpp == pytest.approx((0.5, 0.25))
    slidewright.convert(tmp_path / "philips.tiff", tmp_path / "out.tif", level=1, n_workers=0)
    assert slidewright.info(tmp_path / "out.tif").mpp == pytest.approx((1, 0.5))


def test_philips_barcode_and_serial_number_identify(tmp_path):
    path = tmp_path / "philips.tiff"
    software = "Philips DP v1.0"
    rgb = {"photometric": "rgb", "metadata": None, "tile": (32, 32)}
    tifffile.imwrite(path, PIXELS, description=PHILIPS, software=software, **rgb)
    with TiffSlide(path) as slide:
        assert slide.vendor == "philips"
        found = slide.metadata(slide.levels[0])
    assert (found.scanner_vendor, found.scanner_model) == ("PHILIPS", "UFS")
    assert found.scanner_software == "1.6 4.0"
    names = {"PIM_DP_UFS_BARCODE", "DICOM_DEVICE_SERIAL_NUMBER", "DICOM_PATIENT_NAME"}
    assert {name for name, _ in found.identifying} == names


def test_imagej_channels_have_names_and_colours(tmp_path):
    ramp = np.arange(256, dtype=np.uint8)
    zero = np.zeros(256, np.uint8)
    tables = [np.stack([ramp, zero, zero]), np.stack([zero, ramp, zero])]
    metadata = {"axes": "CYX", "LUTs": tables, "Labels": ["red one", "green one"], "Info": "patient Smith"}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 64, 64), np.uint8), imagej=True, metadata=metadata)
    found = slidewright.open_source(tmp_path / "a.tif").info.metadata
    assert found.channels == (Channel("red one", (255, 0, 0)), Channel("green one", (0, 255, 0)))
    assert dict(found.identifying)["Info"].strip() == "patient Smith"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("powers", "power", "told"),
    [((20, 20), 20, False), ((10, 20), None, True), ((20, None), None, True), ((None,) * 2, None, False)],
)
def test_magnification_of_objectives_of_which_none_is_named_is_what_they_agree_in(powers, power, told):
    objectives = "".join(
        f'<Objective ID="Objective:{number}"' + ("/>" if one is None else f' NominalMagnification="{one}"/>')
        for number, one in enumerate(powers)
    )
    said = re.sub("<Objective .*\n.*</Instrument>", f"{objectives}</Instrument>", OME)
    said = said.replace('<ObjectiveSettings ID="Objective:1"/>', "")
    assert ome(said, 0).objective_power == power
    assert bool(untold_objective(said, 0)) == told
    other = said.replace("</OME>", '<Image ID="Image:1"><ObjectiveSettings ID="Objective:0"/></Image></OME>')
    assert (ome(other, 0).objective_power, untold_objective(other, 0)) == (None, ())


def test_serial_numbers_projects_and_annotations_of_ome_identify():
    said = OME.replace('Model="Axioscan 7"', 'Model="Axioscan 7" SerialNumber="S77"').replace(
        "</OME>",
        '<Project ID="Project:0" Name="Ward 9"/><StructuredAnnotations><XMLAnnotation ID="Annotation:0"><Value>'
        "<Key>patient</Key><Text>Smith</Text></Value></XMLAnnotation><CommentAnnotation ID='Annotation:1'><Value>"
        "seen by Jones</Value></CommentAnnotation></StructuredAnnotations></OME>",
    )
    found = ome(said, 0)
    values = " ".join(value for _, value in found.identifying)
    assert all(word in values for word in ("S77", "Ward 9", "patient Smith", "seen by Jones"))
    assert found.scanner_model == "Axioscan 7"


@pytest.mark.parametrize("labels", [["c:1/2 - Smith.czi #1", "c:2/2 - Smith.czi #1"], ["Smith-1.tif", "Smith-2.tif"]])
def test_imagej_labels_that_are_names_of_files_identify(tmp_path, labels):
    metadata = {"axes": "CYX", "Labels": labels}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 64, 64), np.uint8), imagej=True, metadata=metadata)
    found = slidewright.open_source(tmp_path / "a.tif").info.metadata
    assert found.channels == ()
    assert "Smith" in dict(found.identifying)["Labels"]
    slidewright.convert(tmp_path / "a.tif", tmp_path / "b.ome.tif", n_workers=0)
    assert b"Smith" not in (tmp_path / "b.ome.tif").read_bytes()


@pytest.mark.parametrize(("unit", "seconds"), [(None, 5), ("sec", 5), ("min", 300), ("msec", 0.005), ("lunch", None)])
def test_imagej_has_a_unit_of_time(tmp_path, unit, seconds):
    said = {"axes": "TYX", "finterval": 5, **({} if unit is None else {"tunit": unit})}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 64, 64), np.uint8), imagej=True, metadata=said)
    found = slidewright.open_source(tmp_path / "a.tif", t="all").info.metadata
    assert found.time_increment == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_ome_spacing_of_no_length_is_none(unit):
    said = OME.replace('PhysicalSizeZUnit="nm"', f'PhysicalSizeZUnit="{unit}"')
    assert said != OME
    assert ome(said, 0).z_spacing is None


def test_plain_tags_of_who_and_when_identify(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", PIXELS, photometric="rgb", datetime="2020:01:02 03:04:05", description="Smith",
        metadata=None, extratags=[(315, 2, 0, "jane", True), (33432, 2, 0, "clinic", True), (700, 1, 3, b"xmp", True)],
    )  # fmt: skip
    found = slidewright.open_source(tmp_path / "a.tif").info.metadata
    said = {"Artist": "jane", "DateTime": "2020:01:02 03:04:05", "ImageDescription": "Smith"}
    assert dict(found.identifying) == {**said, "Copyright": "clinic", "XMP": "xmp"}


def test_ngff_channels_have_names_and_colours(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(2, 64, 64), chunks=(1, 64, 64), dtype="uint8")
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    group.attrs["omero"] = {"channels": [{"label": "DAPI", "color": "0000FF"}, {"label": 0, "color": "none"}]}
    found = slidewright.open_source(tmp_path / "a.zarr").info.metadata
    assert found.channels == (Channel("DAPI", (0, 0, 255)), Channel("0", None))


def test_openslide_properties_are_sorted():
    properties = {
        "openslide.objective-power": "40", "openslide.vendor": "hamamatsu", "tiff.Model": "C9600-12",
        "tiff.DateTime": "2020:01:02", "hamamatsu.Created.Date": "x", "aperio.User": "jane", "hamamatsu.XOffset": "1",
    }  # fmt: skip
    found = openslide_source._metadata(properties)
    assert (found.objective_power, found.scanner_vendor, found.scanner_model) == (40, "hamamatsu", "C9600-12")
    assert {name for name, _ in found.identifying} == {"tiff.DateTime", "hamamatsu.Created.Date", "aperio.User"}


def test_own_line_is_read_back():
    said = Metadata(objective_power=20, scanner_vendor="A|B", z_spacing=0.5, background=(1, 2, 255))
    line = as_description(said)
    assert line is not None
    assert own(line) == Metadata(objective_power=20, scanner_vendor="A/B", z_spacing=0.5, background=(1, 2, 255))
    assert as_description(Metadata()) is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"objective_power": -1}, "objective_power"),
        ({"associated": ["labels"]}, "associated 'labels'"),
        ({"label": "/nowhere.png"}, "is no file"),
        ({"channel_colors": ["grebt"]}, "channel_colors"),
        ({"keep_metadata": "some"}, "keep_metadata"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, match):
    with pytest.raises(OptionError, match=match):
        slidewright.convert(PIXELS, tmp_path / "a.tif", n_workers=0, **options)


def test_ome_xml_gives_an_image_neither_scanner_nor_objective_of_another():
    camera = '<Instrument ID="Instrument:9"><Microscope Manufacturer="Camera"/></Instrument><Instrument '
    label = '<Image ID="Image:1" Name="label"><Pixels ID="Pixels:1"/></Image></OME>'
    xml = OME.replace("<Instrument ", camera, 1).replace("<ObjectiveS", '<InstrumentRef ID="Instrument:0"/><ObjectiveS')
    assert ome(xml, 0).scanner_vendor == "Zeiss"
    one = re.sub("<Objective ID=.*NominalMagnification=.10.*\n", "", OME).replace("</OME>", label)
    assert ome(one, 0).objective_power == 20
    assert ome(one, 1).objective_power is None


def test_info_has_the_metadata_of_the_image_that_a_conversion_takes(tmp_path):
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name, side in (("DAPI of a small one", 32), ("DAPI", 64)):
            said = {"axes": "YX", "Channel": {"Name": [name]}}
            tiff.write(PIXELS[:side, :side, 0], photometric="minisblack", metadata=said)
    assert slidewright.info(path).metadata.channels[0].name == "DAPI"


def test_akoya_names_and_colours_each_channel_on_its_page(tmp_path):
    path, out = tmp_path / "a.qptiff", tmp_path / "out.ome.tif"
    with tifffile.TiffWriter(path) as tiff:
        for name, color in (("DAPI", "0,0,255"), ("CD3", "255,0,0")):
            told = f"<Name>{name}</Name><Color>{color}</Color><Objective>20x</Objective>"
            said = f'<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription>{told}'
            said += "<ImageType>FullResolution</ImageType></PerkinElmer-QPI-ImageDescription>"
            options = {"software": "PerkinElmer-QPI", "metadata": None, "photometric": "minisblack", "tile": (32, 32)}
            tiff.write(PIXELS[:, :, 0], description=said, **options)
    slidewright.convert(path, out, n_workers=0)
    found = slidewright.info(out).metadata
    assert found.channels == (Channel("DAPI", (0, 0, 255)), Channel("CD3", (255, 0, 0)))
    assert found.objective_power == 20
    assert "ImageDescription" in dict(slidewright.info(path).metadata.identifying)


def test_fields_of_a_source_are_not_taken_for_optics_in_the_aperio_flavour(tmp_path):
    told = {"MPP": "9", "AppMag": "99", "scanner_vendor": "x", "case|no": "7"}
    options = {"photometric": "rgb", "ome": True, "metadata": {"axes": "YXS", "MapAnnotation": told}}
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, **options)
    said = {"flavour": "aperio", "keep_metadata": "all", "n_workers": 0}
    slidewright.convert(tmp_path / "a.ome.tif", tmp_path / "b.svs", **said)
    found = slidewright.info(tmp_path / "b.svs")
    assert (found.mpp, found.metadata.known) == (None, {})
    assert dict(found.metadata.identifying)["source MPP"] == "9"
    assert dict(found.metadata.identifying)["case no"] == "7"


@pytest.mark.timeout(60)
def test_imagej_may_have_a_unit_for_each_axis(tmp_path):
    said = {"axes": "ZYX", "unit": "micron", "yunit": "nm", "zunit": "mm", "spacing": 2}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 64, 64), np.uint8), imagej=True, metadata=said, resolution=(2, 4))
    info = slidewright.open_source(tmp_path / "a.tif", z="all").info
    assert info.mpp == pytest.approx((0.5, 0.00025))
    assert info.metadata.z_spacing == pytest.approx(2000)


@pytest.mark.timeout(60)
def test_colour_and_label_of_a_single_channel_of_imagej_are_not_lost(tmp_path):
    ramp, zero = np.arange(256, dtype=np.uint8), np.zeros(256, np.uint8)
    for name, table in (("green", [zero, ramp, zero]), ("grey", [ramp, ramp, ramp])):
        said = {"axes": "ZYX", "LUTs": [np.stack(table)], "Labels": ["Smith 1", "Smith 2"]}
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((2, 64, 64), np.uint16), imagej=True, metadata=said)
    found = [slidewright.open_source(tmp_path / f"{name}.tif", z=0).info.metadata for name in ("green", "grey")]
    assert [one.channels for one in found] == [(Channel(None, (0, 255, 0)),), ()]
    tifffile.imwrite(tmp_path / "one.tif", PIXELS[:, :, 0], imagej=True, metadata={"Labels": ["Smith"]})
    assert dict(slidewright.info(tmp_path / "one.tif").metadata.identifying)["Labels"] == "Smith"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", ["ome", "imagej", "svs"])
def test_plain_tags_of_who_and_when_identify_in_a_vendors_file_too(tmp_path, form):
    given = {
        "ome": {"ome": True, "metadata": {"PhysicalSizeX": 0.5}},
        "imagej": {"imagej": True},
        "svs": {"description": "Aperio Image Library v12\r\n1x1|AppMag = 20", "metadata": None},
    }[form]
    tags = [(315, 2, 0, "jane", True), (33432, 2, 0, "clinic", True)]
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", extratags=tags, **given)
    for keep, there in (("allowed", False), ("all", True)):
        path = tmp_path / f"{keep}.ome.tif"
        slidewright.convert(tmp_path / "a.tif", path, keep_metadata=keep, n_workers=0)
        assert [word in path.read_bytes() for word in (b"jane", b"clinic")] == [there, there]


@pytest.mark.timeout(60)
def test_make_and_model_of_a_plain_tiff_are_the_scanners(tmp_path):
    tags = [(271, 2, 0, "Acme", True), (272, 2, 0, "X1", True)]
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", software="AcmeScan 4", extratags=tags)
    tifffile.imwrite(tmp_path / "b.tif", PIXELS, photometric="rgb", software="any program")
    found = [slidewright.info(tmp_path / name).metadata for name in ("a.tif", "b.tif")]
    wanted = {"scanner_vendor": "Acme", "scanner_model": "X1", "scanner_software": "AcmeScan 4"}
    assert [one.known for one in found] == [wanted, {}]


@pytest.mark.timeout(60)
def test_description_beside_the_shape_that_tifffile_notes_is_kept_when_all_is(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", description="case of Smith", metadata={})
    assert dict(slidewright.info(tmp_path / "a.tif").metadata.identifying) == {"ImageDescription": "case of Smith"}
    slidewright.convert(tmp_path / "a.tif", tmp_path / "b.tif", keep_metadata="all", n_workers=0)
    assert b"case of Smith" in (tmp_path / "b.tif").read_bytes()


@pytest.mark.timeout(60)
def test_fields_of_ome_that_nobody_here_knows_identify():
    said = OME.replace('NominalMagnification="20"', 'NominalMagnification="20" LensNA="0.8" Model="of Smith"')
    said = said.replace('Name="DAPI"', 'Name="DAPI" Fluor="Hoechst"')
    said = said.replace("</Instrument>", '<Detector ID="Detector:0" Gain="3"/></Instrument>')
    found = dict(ome(said, 0).identifying)
    assert found["Objective Objective:1 LensNA"] == "0.8"
    assert found["Objective Objective:1 Model"] == "of Smith"
    assert found["Channel Channel:0:0 Fluor"] == "Hoechst"
    assert found["Detector Detector:0 Gain"] == "3"
    assert not [name for name in found if "Channel:0:1" in name or "Objective:0 " in name]


def test_wells_groups_and_rights_of_ome_identify():
    well = '<Well ID="Well:0" Row="0" Column="1" ExternalDescription="of Smith"/>'
    more = f'<Plate ID="Plate:0" Name="7" ExternalIdentifier="B12">{well}</Plate><Screen ID="Screen:0" Name="June"/>'
    more += '<ExperimenterGroup ID="Group:0" Name="Ward 9"/><Rights><RightsHolder>Jones</RightsHolder></Rights>'
    more += '<Experiment ID="Experiment:0"><Description>on Smith</Description></Experiment>'
    found = dict(ome(OME.replace("</OME>", f"{more}</OME>"), 0).identifying)
    assert found["Well Well:0 ExternalDescription"] == "of Smith"
    assert found["Plate Plate:0 ExternalIdentifier"] == "B12"
    assert found["Screen Screen:0 Name"] == "June"
    assert found["ExperimenterGroup Group:0 Name"] == "Ward 9"
    assert found["Rights  RightsHolder"] == "Jones"
    assert found["Experiment Experiment:0 Description"] == "on Smith"
    assert "Description" not in found


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ome", [True, False])
def test_tags_of_the_first_plane_are_those_of_the_stack(tmp_path, ome):
    said = {"ome": True, "metadata": {"axes": "ZYX"}} if ome else {"metadata": None, "description": "of Smith"}
    stack = np.zeros((3, 64, 64), np.uint8)
    tags = [(315, 2, 0, "jane", True)]
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", extratags=tags, **said)
    slidewright.convert(tmp_path / "a.tif", tmp_path / "b.tif", z=1, keep_metadata="all", n_workers=0)
    assert b"jane" in (tmp_path / "b.tif").read_bytes()
    assert (b"of Smith" in (tmp_path / "b.tif").read_bytes()) is not ome


def test_thumbnail_of_an_aperio_slide_has_not_the_magnification_of_the_slide(tmp_path):
    said = "Aperio Image Library v12\n1x1|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        rgb = {"photometric": "rgb", "metadata": None, "software": False}
        tiff.write(PIXELS, tile=(32, 32), description=said, **rgb)
        tiff.write(PIXELS[:16, :16], description=said.replace("1x1", "64x64 -> 16x16 - "), **rgb)
        tiff.write(PIXELS[::2, ::2], tile=(32, 32), description=said, **rgb)
    for chosen, power in (({"page": 0}, 20), ({"page": 2}, 20), ({"page": 1}, None), ({"series": 1}, None)):
        assert slidewright.open_source(tmp_path / "a.svs", **chosen).info.metadata.objective_power == power, chosen
