// A picture of a page after some seconds, by a Chromium without a window: node shot.mjs CHROMIUM URL OUT.png SECONDS
import puppeteer from "puppeteer-core";

const [executablePath, url, path, seconds] = process.argv.slice(2);
const gl = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"];
const browser = await puppeteer.launch({ executablePath, headless: true, args: ["--no-sandbox", "--disable-dev-shm-usage", ...gl] });
const page = await browser.newPage();
await page.setViewport({ width: 1024, height: 768 });
page.on("pageerror", (error) => console.log(error.message));
await page.goto(url);
await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
await page.screenshot({ path });
await browser.close();
