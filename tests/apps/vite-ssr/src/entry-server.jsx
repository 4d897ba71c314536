import { renderToString } from "react-dom/server";
import App from "./App";

const EDITION = "first edition";

/** @param {string} url Without the base, so without a slash in front. */
export function render(url) {
  const [, name] = url.match(/^hello\/([^/?]+)/) ?? [];
  const words = name ? `Hello, ${name}` : `${EDITION}, ${process.env.GREETING}`;
  return { html: renderToString(<App words={words} />) };
}
