// Classify images: npm install, then node classify.mjs IMAGE...
import { readFile } from "node:fs/promises";
import sharp from "sharp";
import { openPackage } from "./package.mjs";

// Nobody is told of sessions; version 1.30 also crashes there if the command line is long.
process.env.ORT_DISABLE_TELEMETRY ??= "1";
const ort = await import("onnxruntime-node");

const machine = { x64: "x86_64", arm64: "aarch64" }[process.arch] ?? process.arch;
const fetchBytes = async (name) => new Uint8Array(await readFile(new URL(name, import.meta.url)));

try {
  const { target, classify } = await openPackage(ort, fetchBytes, machine);
  for (const name of process.argv.slice(2)) {
    // Upright, on white, without the profile: as predict decodes it.
    const image = sharp(name, { ignoreIcc: true }).rotate().flatten({ background: "white" });
    const { data, info } = await image.toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
    const classes = await classify(new Uint8Array(data), info.height, info.width);
    console.log(JSON.stringify({ image: name, variant: target, classes }));
  }
} catch (error) {
  console.error(`classify: ${error.message}`);
  process.exitCode = 2;
}
