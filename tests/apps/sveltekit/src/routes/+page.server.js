import process from "node:process";

export const load = () => ({ greeting: process.env.GREETING });
