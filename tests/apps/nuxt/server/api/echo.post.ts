export default defineEventHandler(async (event) => {
  const { text } = await readBody(event);
  return { said: text, length: text.length };
});
