"""Random OME-TIFFs, whose XML is written by hand, and random OME-Zarrs, with what each says."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
import zarr
from faults.metadata_said import MAKERS, NGFF_TIMES, NGFF_UNITS, OME_TIMES, OME_UNITS, Teller


class OmeTeller(Teller):
    """Writes them."""

    def _ome(self) -> Path:
        said, path = self.said, self.folder / "source.ome.tif"
        image, (times, depths) = self.pixels(), said.stack
        height, width = said.shape
        root = ElementTree.Element("OME", xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06")
        add = ElementTree.SubElement
        if self.maybe(0.2):
            add(root, "Experimenter", ID="Experimenter:0", LastName=self.secret("Experimenter"))
        instrument = add(root, "Instrument", ID="Instrument:0")
        if self.maybe():
            said.vendor, said.model = self.chance.choice(MAKERS), self.chance.choice(("X1", "GT 450"))
            microscope = add(instrument, "Microscope", Manufacturer=said.vendor, Model=said.model)
            if self.maybe(0.3):
                microscope.set("SerialNumber", self.secret("SerialNumber"))
        if self.maybe():
            said.objective_power = self.chance.choice((5, 10, 20, 40, 63, 1.25))
            objective = add(instrument, "Objective", ID="Objective:0:0", NominalMagnification=str(said.objective_power))
            if self.maybe(0.3):
                objective.set("Model", self.secret("Objective Model"))
        other = self.maybe(0.2)  # a small image before it, of which all is otherwise
        if other:
            if self.maybe():
                add(instrument, "Objective", ID="Objective:0:1", NominalMagnification="2")
            small = add(root, "Image", ID="Image:1", Name="small")
            add(small, "InstrumentRef", ID="Instrument:0")
            if instrument.find("Objective[@ID='Objective:0:1']") is not None:
                add(small, "ObjectiveSettings", ID="Objective:0:1")
            wrong = {"SizeX": "40", "SizeY": "30", "SizeC": "1", "SizeZ": "1", "SizeT": "1", "Type": "uint8"}
            wrong |= {"PhysicalSizeX": "9", "PhysicalSizeY": "9", "PhysicalSizeZ": "9", "TimeIncrement": "9"}
            wrong = add(small, "Pixels", ID="Pixels:1", DimensionOrder="XYCZT", **wrong)
            add(wrong, "Channel", ID="Channel:1:0", Name="wrong", Color="77")
            add(wrong, "TiffData", IFD="0", PlaneCount="1")
        element = add(root, "Image", ID="Image:0", Name=self.secret("Name") if self.maybe(0.3) else "image")
        for name in ("AcquisitionDate", "Description"):
            if self.maybe(0.3):
                add(element, name).text = self.secret(name)
        add(element, "InstrumentRef", ID="Instrument:0")
        if said.objective_power is not None:
            add(element, "ObjectiveSettings", ID="Objective:0:0")
        types = {"float32": "float"}
        sizes = {"X": width, "Y": height, "C": said.samples, "Z": depths, "T": times}
        pixels = add(
            element, "Pixels", ID="Pixels:0", DimensionOrder="XYCZT", Type=types.get(said.dtype, said.dtype),
            **{f"Size{axis}": str(size) for axis, size in sizes.items()},
        )  # fmt: skip
        self._ome_measures(pixels)
        self._names()
        for number in range(said.channels):
            samples = "3" if said.kind == "rgb" else "1"
            channel = add(pixels, "Channel", ID=f"Channel:0:{number}", SamplesPerPixel=samples)
            if said.names:
                channel.set("Name", said.names[number])
            if said.colors:
                value = int.from_bytes(bytes((*said.colors[number], 255)), "big", signed=True)
                channel.set("Color", str(value))
            if self.maybe(0.1):
                channel.set("Fluor", self.secret(f"Fluor {number}"))
        count = times * depths * said.channels
        add(pixels, "TiffData", IFD=str(int(other)), PlaneCount=str(count))
        if self.maybe(0.15):
            said.told["position"] = "said of each plane .PositionX, PositionY"
            place = {"PositionX": "12.5", "PositionY": "3"}
            add(pixels, "Plane", TheC="0", TheT="0", TheZ="0", **place)
        given = self._photometric()
        if self.maybe(0.2):
            given |= {"resolution": (77.0, 77.0), "resolutionunit": "CENTIMETER"}
            if said.mpp is None:  # which would be a screen's
                said.told["resolution"] = "its resolution"
        sizes_of, profile = self._sizes(), self._profile()
        planes = [image[t, z, c] for t in range(times) for z in range(depths) for c in range(image.shape[2])]
        text = '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode")
        tags = self._who_tags(0.1)
        with tifffile.TiffWriter(path, ome=False) as tiff:
            first: dict[str, Any] = {"description": text.encode()}
            if other:
                tiff.write(np.zeros((30, 40), np.uint8), metadata=None, software=False, **first)
                first = {}
            for number, plane in enumerate(planes):
                more: dict[str, Any] = {"iccprofile": profile}
                more |= {**first, "extratags": tags} if not number else {}
                for level, (high, wide) in enumerate(sizes_of):
                    part = np.ascontiguousarray(plane[:: 1 << level, :: 1 << level][:high, :wide])
                    part = part if said.kind == "rgb" else part[..., 0]
                    below = {"subifds": len(sizes_of) - 1} if not level and len(sizes_of) > 1 else {}
                    marked = {"subfiletype": 1} if level else more
                    tiff.write(part, tile=(64, 64), metadata=None, software=False, **given, **marked, **below)
        return path

    def _tifffile(self) -> Path:
        """An OME-TIFF whose XML tifffile writes."""
        said, path = self.said, self.folder / "source.ome.tif"
        image = self.pixels()
        image = image if said.kind == "rgb" else image[..., 0]
        self._names()
        metadata: dict[str, Any] = {"axes": "TZCYXS" if said.kind == "rgb" else "TZCYX"}
        if self.maybe():
            said.mpp = (self.number(0.1, 2), self.number(0.1, 2))
            for axis, value in zip("XY", said.mpp, strict=True):
                unit, scale = self.chance.choice(list(OME_UNITS.items()))
                metadata |= {f"PhysicalSize{axis}": value / scale, f"PhysicalSize{axis}Unit": unit}
        if self.maybe(0.3):
            said.z_spacing = metadata["PhysicalSizeZ"] = self.number(0.1, 9)
        if self.maybe(0.3):
            said.time_increment = metadata["TimeIncrement"] = self.number(0.1, 9)
        channel: dict[str, Any] = {"Name": said.names} if said.names else {}
        if said.colors:
            channel["Color"] = [int.from_bytes(bytes((*color, 255)), "big", signed=True) for color in said.colors]
        metadata |= {"Channel": channel} if channel else {}
        metadata |= {"Description": self.secret("Description")} if self.maybe(0.3) else {}
        metadata |= {"Name": self.secret("Name")} if self.maybe(0.3) else {}
        if self.maybe(0.2):
            metadata["Plane"] = {"PositionX": [1.5] * (image.shape[0] * image.shape[1] * image.shape[2])}
            said.told["position"] = "said of each plane .PositionX"
        if said.dtype == "uint16" and self.maybe(0.2):
            metadata["SignificantBits"] = said.bits = 10
        given = self._photometric() | {"extratags": self._who_tags(0.1), "iccprofile": self._profile()}
        tifffile.imwrite(path, image, ome=True, metadata=metadata, tile=(64, 64), software=False, **given)
        return path

    def _ome_measures(self, pixels: ElementTree.Element) -> None:
        said = self.said
        if self.maybe(0.7):
            unit, scale = self.chance.choice(list(OME_UNITS.items()))
            wanted = [self.number(0.1, 2), self.number(0.1, 2)]
            wanted = [wanted[0]] * 2 if self.maybe() else wanted
            axes = "X" if self.maybe(0.1) else "XY"
            if self.maybe(0.1):
                unit, scale = "furlong" if self.maybe() else "pixel", 0
            elif self.maybe(0.1):
                wanted = [value * 500 for value in wanted]
            for axis, value in zip(axes, wanted, strict=False):
                pixels.set(f"PhysicalSize{axis}", repr(value / (scale or 1)))
                if unit != "µm" or self.maybe():
                    pixels.set(f"PhysicalSize{axis}Unit", unit)
            if axes == "XY" and scale:
                said.mpp = (wanted[0], wanted[1])
            else:
                said.told["PhysicalSize"] = "PhysicalSize|size of a pixel"
        if self.maybe(0.3):
            unit, scale = self.chance.choice(list(OME_UNITS.items()))
            said.z_spacing = self.number(0.1, 9)
            pixels.set("PhysicalSizeZ", repr(said.z_spacing / scale))
            pixels.set("PhysicalSizeZUnit", unit)
            if self.maybe(0.1):
                pixels.set("PhysicalSizeZUnit", "reference frame")
                said.told["z_spacing"] = "its PhysicalSizeZ"
                said.z_spacing = None
        if self.maybe(0.3):
            unit, scale = self.chance.choice(list(OME_TIMES.items()))
            said.time_increment = self.number(0.1, 9)
            if self.maybe(0.1):
                unit, scale = "fortnight", said.time_increment
                said.told["time_increment"] = "its TimeIncrement 1.0 .fortnight"
            pixels.set("TimeIncrement", repr(said.time_increment / scale))
            pixels.set("TimeIncrementUnit", unit)
            said.time_increment = None if unit == "fortnight" else said.time_increment
        if said.dtype == "uint16" and self.maybe(0.3):
            pixels.set("SignificantBits", "12")
            said.bits = 12

    def _zarr(self) -> Path:
        said, path, chance = self.said, self.folder / "source.ome.zarr", self.chance
        old, image = self.maybe(), self.pixels()
        image = np.moveaxis(image, 5, 2)[:, :, :, 0] if said.kind == "rgb" else image[..., 0]
        image = np.moveaxis(image, 2, 1)  # t, c, z, y, x
        kept = [axis for axis, size in zip("tcz", image.shape, strict=False) if size > 1 or self.maybe(0.2)]
        letters = "".join(kept) + "yx"
        shape = [size for axis, size in zip("tczyx", image.shape, strict=True) if axis in letters]
        image = image.reshape(shape)
        scale = dict.fromkeys("tczyx", 1.0)
        units: dict[str, str] = {}
        unit, times_of = chance.choice(list(NGFF_UNITS.items()))
        if self.maybe(0.75):
            mpp = (self.number(0.1, 2), self.number(0.1, 2))
            mpp = (mpp[0], mpp[0]) if self.maybe() else mpp
            scale |= {"x": mpp[0] / times_of, "y": mpp[1] / times_of}
            if self.maybe(0.15):
                said.told["scale"] = "its scale"
            else:
                said.mpp = mpp
                units |= {"x": unit, "y": unit}
        if "z" in letters and self.maybe():
            said.z_spacing, units["z"] = self.number(0.1, 9), "nanometer"
            scale["z"] = said.z_spacing * 1000
        if "t" in letters and self.maybe():
            units["t"], seconds = chance.choice(list(NGFF_TIMES.items()))
            said.time_increment = self.number(0.1, 9)
            scale["t"] = said.time_increment / seconds
        elif "t" in letters and self.maybe(0.2):
            scale["t"] = 7.5
            said.told["scale of t"] = "its scale of 7.5 along t"
        kinds = {"t": "time", "c": "channel"}
        axes = [
            {"name": axis, "type": kinds.get(axis, "space")} | ({"unit": units[axis]} if axis in units else {})
            for axis in letters
        ]
        datasets, moved, sizes = [], self.maybe(0.1), self._sizes()
        divided = self.maybe(0.2)  # between the levels' transformations and that of the whole
        for level in range(len(sizes)):
            steps = [scale[a] * (2**level if a in "yx" else 1) / (2 if divided else 1) for a in letters]
            transforms: list[dict[str, Any]] = [{"type": "scale", "scale": steps}]
            if moved:
                transforms.append({"type": "translation", "translation": [7.0 if a in "yxz" else 0.0 for a in letters]})
            datasets.append({"path": str(level), "coordinateTransformations": transforms})
        said.told |= {"translation": "where it lies"} if moved else {}
        multiscale: dict[str, Any] = {"axes": axes, "datasets": datasets}
        if divided:
            multiscale["coordinateTransformations"] = [{"type": "scale", "scale": [2.0] * len(letters)}]
        if self.maybe(0.3):
            multiscale["name"] = self.secret("multiscales name")
        ome: dict[str, Any] = {"multiscales": [multiscale | ({"version": "0.4"} if old else {})]}
        self._zarr_channels(ome)
        own = {"microscope": {"operator": self.secret("attribute")}} if self.maybe(0.15) else {}
        group = zarr.open_group(str(path), mode="w", zarr_format=2 if old else 3)
        group.attrs.update({**own, **(ome if old else {"ome": {"version": "0.5", **ome}})})
        for level, (height, width) in enumerate(sizes):
            part = np.ascontiguousarray(image[..., :: 1 << level, :: 1 << level][..., :height, :width])
            named = {} if old else {"dimension_names": list(letters)}
            more: dict[str, Any] = {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if old else {}
            group.create_array(str(level), data=part, chunks=(*(1,) * (part.ndim - 2), 64, 64), **more, **named)
        return path

    def _zarr_channels(self, ome: dict[str, Any]) -> None:
        said = self.said
        if said.kind == "labels":
            ome["image-label"] = label = {}
            if self.maybe(0.7):
                label["colors"] = [{"label-value": n, "rgba": [*c, 255]} for n, c in self._palette().items()]
                if self.maybe(0.2):
                    label["colors"][3]["rgba"][3] = 99
                    said.told["transparent"] = "transparent"
            if self.maybe(0.2):
                label["properties"] = [{"label-value": 1, "class": "tumour"}]
                said.told["properties"] = "properties of its labels"
            return
        if said.kind == "rgb":
            if self.maybe():
                names = ["DAPI", "FITC", "Cy5"] if self.maybe(0.3) else ["Red", "G", "blue"]
                found = zip(names, ("FF0000", "00FF00", "0000FF"), strict=True)
                window = {"min": 0, "max": 255, "start": 0, "end": 255}
                ome["omero"] = {"channels": [{"label": one, "color": two, "window": window} for one, two in found]}
                if names[0] == "DAPI":
                    said.told["names"] = "DAPI, FITC, Cy5"
            return
        self._names()
        if said.names or said.colors:
            channels: list[dict[str, Any]] = [{} for _ in range(said.samples)]
            for number, channel in enumerate(channels):
                channel |= {"label": said.names[number]} if said.names else {}
                channel |= {"color": "{:02X}{:02x}{:02X}".format(*said.colors[number])} if said.colors else {}
            ome["omero"] = {"channels": channels}
        if said.kind == "multichannel":
            self.options["kind"] = "multichannel"
