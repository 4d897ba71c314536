// Does on each server what a file there says, so that one deploy ends differently on each of them.

import { existsSync } from "node:fs";
import { createServer } from "node:http";
import { setTimeout } from "node:timers/promises";

const server = process.env.TAKO_DATA_DIR.split("/data/apps/")[0];
const says = (word) => existsSync(`${server}/${word}`);

if (says("exit")) {
  console.error("boom: no database");
  process.exit(3);
}
while (says("wait")) await setTimeout(20);
// What is asked later is of those that started later.
const ill = says("ill");

createServer((request, response) => {
  response.writeHead(request.url.startsWith("/healthz") && ill ? 500 : 200);
  response.end(JSON.stringify({ version: process.env.TAKO_BUILD }));
}).listen(Number(process.env.PORT), "127.0.0.1");
