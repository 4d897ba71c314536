export async function action({ request }) {
  const { text } = await request.json();
  return Response.json({ said: text, length: text.length });
}
