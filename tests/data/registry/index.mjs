// What a package that was installed on the server says, on every runtime.
import { greeting } from "tiny-greeting";

export default {
  fetch() {
    return new Response(greeting);
  },
};
