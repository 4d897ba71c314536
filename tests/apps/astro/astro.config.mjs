import node from "@astrojs/node";
import { defineConfig } from "astro/config";

export default defineConfig({
  output: "server",
  adapter: node({ mode: "standalone" }),
  // The script is too small for a file of its own else.
  vite: { build: { assetsInlineLimit: 0 } },
});
