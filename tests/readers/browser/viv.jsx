// The image group that the address names (?store=...), in Viv, in the colours and windows of its "omero" metadata.
import { ColorPaletteExtension, loadOmeZarr, PictureInPictureViewer } from "@hms-dbmi/viv";
import React from "react";
import { createRoot } from "react-dom/client";

const store = new URL(new URLSearchParams(location.search).get("store"), location.href);
const { data, metadata } = await loadOmeZarr(store.href, { type: "multiscales" });
const { channels } = metadata.omero;
const viewer = (
  <PictureInPictureViewer
    loader={data}
    contrastLimits={channels.map(({ window }) => [window.start, window.end])}
    colors={channels.map(({ color }) => [0, 2, 4].map((at) => parseInt(color.slice(at, at + 2), 16)))}
    channelsVisible={channels.map(({ active }) => active)}
    selections={channels.map((_, c) => ({ c }))}
    extensions={[new ColorPaletteExtension()]}
    height={768}
    width={1024}
    overview={{ margin: 20, scale: 0.2, position: "bottom-right" }}
    overviewOn
  />
);
createRoot(document.getElementById("viewer")).render(viewer);
